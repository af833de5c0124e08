// Rows of few features, sorted so that neighbours are near each other, in boxes within boxes.
#pragma once

#include <memory>
#include <numeric>
#include <vector>

#include "abi/native.h"
#include "host/memory.h"
#include "kernel/few/boxes.h"

namespace km {

template <typename T>
class BoxTree {
 public:
  // Null where distances could overflow, or a number is not finite; and for cosine.
  static std::unique_ptr<BoxTree> of(const km_rows& rows, int threads);

  const Boxes<T>& view() const { return tree_; }
  // Whether these (count, d) can be measured against: nothing overflows.
  static bool measures(const T* points, int64_t count);

  // What the labels (n) are taken to have been; null: none.
  void take_labels(const int64_t* labels);

  // See km_potentials and km_lower; false where potentials are not finite yet.
  bool potentials(const T* nearest, const T* candidates, int64_t m, bool unchanged,
                  double* potentials, int threads);
  void lower(T* nearest, const T* center, bool unchanged, int threads);
  void end_seeding();

 private:
  int64_t all_nodes() const {
    return tree_.begin[tree_.levels - 1] + tree_.nodes[tree_.levels - 1];
  }
  void read_nearest(const T* nearest, int threads);
  bool build(const km_rows& rows, int threads);

  Boxes<T> tree_ = {};
  Array<T> rows_, middle_, half_, near_, farthest_;
  Array<double> weights_, moments_, potential_;
  Array<uint32_t> number_;
  Array<int32_t> owner_, label_;
};

// Lists of centroids for each part.
template <typename T>
class ListsOfParts {
 public:
  ListsOfParts(const Boxes<T>& tree, const T* centroids, int64_t k, int64_t parts) : of(parts) {
    const int64_t room = filled(k) + kPlaces;
    CandidateLists<T> all = {};
    all.k = k;
    all.room = room;
    all.all_index = take<int32_t>(room);
    T* const features = take<T>(room * tree.d);
    std::iota(all.all_index, all.all_index + room, 0);
    std::fill_n(features, room * tree.d, kFarAway<T>);
    for (int64_t c = 0; c < k; ++c)
      for (int64_t j = 0; j < tree.d; ++j) features[j * room + c] = centroids[c * tree.d + j];
    all.all = features;
    for (CandidateLists<T>& own : of) {
      own = all;
      own.index = take<int32_t>(tree.levels * room);
      own.features = take<T>(tree.levels * room * tree.d);
      own.squares = take<T>(room);
    }
  }
  std::vector<CandidateLists<T>> of;

 private:
  template <typename Number>
  Number* take(int64_t count) {
    memory_.push_back(aligned<char>(size_t(count) * sizeof(Number)));
    return reinterpret_cast<Number*>(memory_.back().get());
  }
  std::vector<std::unique_ptr<char[], Free>> memory_;
};

}  // namespace km
