// The best choices of one row at one level, and candidates that are still to be measured.
#pragma once

#include "kernel/rows/distance-inl.h"

namespace km::KM_TARGET {
namespace {

// A choice is a beam of the row and a centroid of the level, in one number: beam · k + centroid.
// Made empty by start. Room for candidates is a trade: more of them are measured against a lower
// limit, and fewer fit in the cache.
template <typename T>
struct Choices {
  static constexpr int kRoom = 128;  // candidates before they have to be measured

  // Begins a level of which the `most` nearest choices are wanted, 1 to kMostBeams.
  void start(int most) {
    wanted = most;
    count = candidates = bounds = 0;
    limit = kInfinityOf<float>;
  }

  bool is_full() const { return count == wanted; }

  // Takes a choice whose deciding distance was computed. NaN counts as infinity, so that there are
  // always enough choices. Insertion into a sorted list: most choices end after one comparison.
  void add(T measured, int64_t number) {
    if (!(measured < kInfinityOf<T>)) measured = kInfinityOf<T>;
    if (is_full() && !precedes(measured, number, wanted - 1)) return;
    int place = count < wanted ? count++ : wanted - 1;
    for (; place > 0 && precedes(measured, number, place - 1); --place) {
      distance[place] = distance[place - 1];
      choice[place] = choice[place - 1];
    }
    distance[place] = measured;
    choice[place] = number;
    if (is_full()) lower_limit(static_cast<float>(distance[wanted - 1]));
  }

  // Takes an upper bound on the deciding distance of a choice. The wanted-th least bound is a
  // limit: so many choices are known to be no farther. Each choice is offered once a level.
  void add_bound(float upper) {
    if (bounds == wanted && !(upper < bound[wanted - 1])) return;
    int place = bounds < wanted ? bounds++ : wanted - 1;
    for (; place > 0 && upper < bound[place - 1]; --place) bound[place] = bound[place - 1];
    bound[place] = upper;
    if (bounds == wanted) lower_limit(bound[wanted - 1]);
  }

  int wanted;
  float limit;  // squared distance beyond which no choice is wanted
  // The nearest choices so far, their number being count <= wanted.
  T distance[kMostBeams];  // (count), squared, ascending, ties by choice
  int64_t choice[kMostBeams];
  int count;
  // Choices that no bound has discarded so far, to be measured together.
  int64_t candidate[kRoom];  // (candidates)
  float least[kRoom];        // (candidates): lower bounds on their squared distances
  int candidates;

 private:
  // Whether a choice is nearer than the one at place; ties by its number.
  bool precedes(T measured, int64_t number, int place) const {
    return measured < distance[place] || (measured == distance[place] && number < choice[place]);
  }
  void lower_limit(float squared) { limit = least_of(limit, squared); }

  float bound[kMostBeams];  // (bounds), ascending: upper bounds on squared distances
  int bounds;
};

}  // namespace
}  // namespace km::KM_TARGET
