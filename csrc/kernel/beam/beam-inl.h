// Codes of several levels whose centroids add up to a row: a beam search.
//
//
// A choice is a beam of the level before, v, and a centroid c; it leaves v - c. The wanted choices
// with the least ‖v - c‖² become the beams of the next level, ties by the number of the beam and
// then of the centroid. The distance that decides is that of the E-step, bit for bit, so that one
// beam takes the codes that labels of the residuals would be.
//
// Above kFewFeatures choices are screened: with v and c less the origin of the level,
// score = v·c - ½‖c‖² gives ‖v - c‖² = ‖v‖² - 2 score within Beams::margin of ‖v‖² + ‖c‖². What
// is surely farther than the wanted choices are at most is discarded; the others are measured.
#pragma once

#include "kernel/few/block-inl.h"
#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int64_t kProductsInPart = 128;  // that are added up before they join the score

// The best choices of one row. A choice is a number: beam · k + centroid.
template <typename T>
struct Choices {
  static constexpr int kMost = kMostBeams, kRoom = 128;

  void start(int most) {
    wanted = most;
    count = candidates = bounds = 0;
    limit = kInfinity;
  }

  bool full() const { return count == wanted; }

  // Takes a choice that was measured. A distance that is no number counts as infinite.
  void add(T measured, int64_t number) {
    if (!(measured < kInfinityOf<T>)) measured = kInfinityOf<T>;
    if (full() && !before(measured, number, wanted - 1)) return;
    int place = count < wanted ? count++ : wanted - 1;
    for (; place > 0 && before(measured, number, place - 1); --place) {
      distance[place] = distance[place - 1];
      choice[place] = choice[place - 1];
    }
    distance[place] = measured;
    choice[place] = number;
    if (full()) lower_limit(static_cast<float>(distance[wanted - 1]));
  }

  // Takes an upper bound on the distance of a choice.
  void add_bound(float most) {
    if (bounds == wanted && !(most < bound[wanted - 1])) return;
    int place = bounds < wanted ? bounds++ : wanted - 1;
    for (; place > 0 && most < bound[place - 1]; --place) bound[place] = bound[place - 1];
    bound[place] = most;
    if (bounds == wanted) lower_limit(bound[wanted - 1]);
  }

  int wanted;
  float limit;            // no wanted choice is farther, but for the margin
  T distance[kMost];      // (count), ascending
  int64_t choice[kMost];  // (count)
  int count;
  // Choices that are to be measured, and the least that their distances can be.
  float least[kRoom];
  int64_t candidate[kRoom];
  int candidates;

 private:
  bool before(T measured, int64_t number, int place) const {
    return measured < distance[place] || (measured == distance[place] && number < choice[place]);
  }
  void lower_limit(float to) { limit = least_of(limit, to); }

  float bound[kMost];  // (bounds), ascending
  int bounds;
};

// Rows of a search, at most kBeamRows, and their beams: vectors (rows, beams).
template <typename T>
struct BeamBlock {
  BeamBlock(const Beams<T>& beam, int64_t begin, int64_t end, const BeamScratch<T>& scratch)
      : b(beam),
        first(begin),
        count(static_cast<int>(end - begin)),
        few(beam.d <= kFewFeatures),
        left(scratch.left),
        next(scratch.next),
        centered(scratch.centered),
        codes(scratch.codes),
        next_codes(scratch.next_codes) {
    for (int i = 0; i < count; ++i) {
      const T* row = b.x + (first + i) * b.d;
      T* const to = left + i * b.stride;
      std::memcpy(to, row, size_t(b.d) * sizeof(T));
      for (int64_t j = b.d; j < b.stride; ++j) to[j] = 0;
    }
  }

  void choose(int64_t level) {
    const int wanted = find(level);
    for (int i = 0; i < count; ++i)
      for (int w = 0; w < wanted; ++w) take(level, i, w);
    T* const vectors_before = left;
    left = next;
    next = vectors_before;
    int32_t* const codes_before = codes;
    codes = next_codes;
    next_codes = codes_before;
    beams = wanted;
  }

  // The choices of the only level, and their distances.
  void search() {
    const int wanted = find(0);
    T* const distances = b.distances;
    for (int i = 0; i < count; ++i)
      for (int w = 0; w < wanted; ++w) {
        b.codes[(first + i) * wanted + w] = best[i].choice[w];
        distances[(first + i) * wanted + w] = best[i].distance[w];
      }
  }

  // The first beam of each row is the best.
  void finish() const {
    for (int i = 0; i < count; ++i) {
      for (int64_t level = 0; level < b.levels; ++level)
        b.codes[(first + i) * b.levels + level] = codes[i * beams * b.levels + level];
      std::memcpy(b.left + (first + i) * b.d, left + i * beams * b.stride, size_t(b.d) * sizeof(T));
    }
  }

 private:
  // The best choices of each row, and how many they are.
  int find(int64_t level) {
    const int wanted = static_cast<int>(least_of<int64_t>(b.beam_size, beams * b.k));
    for (int i = 0; i < count; ++i) best[i].start(wanted);
    if (few)
      measure_all(level);
    else
      screen(level);
    return wanted;
  }

  const T* centroid(int64_t level, int64_t code) const {
    return b.codebooks + (level * b.k + code) * b.stride;
  }

  // Centroids are in the lanes.
  void measure_all(int64_t level) {
    constexpr int R = Lanes<T>::kRows;
    const int64_t blocks = (b.k + R - 1) / R;
    const T* const packed = b.blocks + level * blocks * b.d * R;
    for (int v = 0; v < count * beams; ++v) {
      Choices<T>& of_row = best[v / beams];
      for (int64_t begin = 0; begin < b.k; begin += R) {
        typename Lanes<T>::Vector found[1][kVectors];
        measure<1, 0>(packed + begin * b.d, left + v * b.stride, b.d, b.d, 1, found);
        alignas(64) T distance[R];
        std::memcpy(distance, found, sizeof(distance));
        for (int c = 0; c < R; c += kAtOnce)
          for (unsigned lanes = nearer(distance + c, of_row); lanes; lanes &= lanes - 1) {
            const int64_t code = begin + c + __builtin_ctz(lanes);
            if (code < b.k) of_row.add(distance[code - begin], v % beams * b.k + code);
          }
      }
    }
  }

  // Of distances that are compared at once.
  static constexpr int kAtOnce = Lanes<T>::kRows < kLanes ? Lanes<T>::kRows : kLanes;

  // Which of them are less than those of the wanted choices: later choices lose ties.
  static unsigned nearer(const float* distance, const Choices<T>& of_row) {
    static_assert(Lanes<float>::kRows >= kLanes);
    return of_row.full() ? lanes_below(distance, of_row.distance[of_row.wanted - 1]) : 0xffffu;
  }
  static unsigned nearer(const double* distance, const Choices<T>& of_row) {
    unsigned lanes = 0;
    for (int c = 0; c < kAtOnce; ++c)
      lanes |= unsigned(!of_row.full() || distance[c] < of_row.distance[of_row.wanted - 1]) << c;
    return lanes;
  }

  void screen(int64_t level) {
    const int vectors = count * beams;
    const T* const origin = centroid(level, b.origins[level]);
    float least[kBeamRows * kMostBeams], most[kBeamRows * kMostBeams];
    for (int v = 0; v < vectors; ++v) {  // bounds on squared norms
      float* const to = centered + v * b.stride;
      const T* const from = left + v * b.stride;
      for (int64_t j = 0; j < b.stride; ++j) to[j] = static_cast<float>(from[j] - origin[j]);
      const float norm = squared_norm(to, b.stride);
      least[v] = norm * (1 - b.margin) - kTinySquare;
      most[v] = norm * (1 + b.margin) + kTinySquare;
      if (norm < kTooLarge) continue;
      std::memset(
          to, 0,
          size_t(b.stride) * sizeof(float));  // products could overflow: all choices are measured
      least[v] = -kInfinity;
      most[v] = kInfinity;
    }
    const int64_t panels = (b.k + kLanes - 1) / kLanes;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const float* packed = b.panels + (level * panels + panel) * (1 + b.d) * kLanes;
      for (int begin = 0; begin < vectors; begin += kRowsTogether) {
        Sixteen<float> score[kRowsTogether];
        for (auto& of_row : score) of_row = load(packed);
        for (int64_t j = 0; j < b.d; j += kProductsInPart) {
          const float* rows[kRowsTogether];
          Sixteen<float> sum[kRowsTogether] = {};
          for (int r = 0; r < kRowsTogether; ++r)
            rows[r] = centered + least_of(begin + r, vectors - 1) * b.stride + j;
          add_products(rows, packed + (1 + j) * kLanes, least_of(kProductsInPart, b.d - j), sum);
          for (int r = 0; r < kRowsTogether; ++r) add(score[r], sum[r]);
        }
        for (int v = begin; v < least_of(begin + kRowsTogether, vectors); ++v)
          offer(level, v, panel * kLanes, packed, score[v - begin], least[v], most[v]);
      }
    }
    for (int i = 0; i < count; ++i) look(level, i);
  }

  // Keeps the choices of vector v and sixteen centroids that may be wanted.
  void offer(int64_t level, int v, int64_t code, const float* half_norms,
             const Sixteen<float>& score, float least, float most) {
    Choices<T>& of_row = best[v / beams];
    unsigned lanes = at_least(score, 0.5f * (least - of_row.limit));
    if (!lanes) return;
    float scores[kLanes];
    store(scores, score);
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      if (code + lane >= b.k) return;
      const float distance = least - 2 * scores[lane];
      if (distance > of_row.limit) continue;
      if (of_row.candidates == of_row.kRoom) look(level, v / beams);
      of_row.least[of_row.candidates] = distance;
      of_row.candidate[of_row.candidates++] = v % beams * b.k + code + lane;
      // Scores are raised by the margin of ‖c‖², which counts twice here.
      if (scores[lane] < kInfinity)
        of_row.add_bound(most - 2 * scores[lane] - b.margin_of_half * half_norms[lane]);
    }
  }

  // Measures the candidates of a row that may still be wanted.
  void look(int64_t level, int i) {
    constexpr int kTogether = 4;
    Choices<T>& of_row = best[i];
    int open = 0;
    for (int n = 0; n < of_row.candidates; ++n)
      if (!(of_row.least[n] > of_row.limit)) of_row.candidate[open++] = of_row.candidate[n];
    for (int n = 0; n < open; n += kTogether) {
      const T *vectors[kTogether], *centroids[kTogether];
      T distance[kTogether];
      for (int t = 0; t < kTogether; ++t) {  // missing ones repeat the last
        const int64_t choice = of_row.candidate[least_of(n + t, open - 1)];
        vectors[t] = left + (i * beams + choice / b.k) * b.stride;
        centroids[t] = centroid(level, choice % b.k);
      }
      squared_distances(vectors, centroids, b.stride, distance);
      for (int t = 0; t < least_of(kTogether, open - n); ++t)
        of_row.add(distance[t], of_row.candidate[n + t]);
    }
    of_row.candidates = 0;
  }

  // Choice w of row i becomes a beam.
  void take(int64_t level, int i, int w) {
    const int64_t to = i * best[i].wanted + w, choice = best[i].choice[w];
    const int64_t from = i * beams + choice / b.k, code = choice % b.k;
    const T* const vector = left + from * b.stride;
    const T* const chosen = centroid(level, code);
    for (int64_t j = 0; j < b.stride; ++j) next[to * b.stride + j] = vector[j] - chosen[j];
    std::memcpy(next_codes + to * b.levels, codes + from * b.levels,
                size_t(level) * sizeof(int32_t));
    next_codes[to * b.levels + level] = static_cast<int32_t>(code);
  }

  static constexpr float kTinySquare = 1e-30f;  // of which underflow leaves nothing

  const Beams<T>& b;
  const int64_t first;
  const int count;
  const bool few;
  T *left, *next;               // (rows, beams, stride): what is left of the rows
  float* centered;              // (rows, beams, stride): the same less the origin of a level
  int32_t *codes, *next_codes;  // (rows, beams, levels)
  int beams = 1;
  Choices<T> best[kBeamRows];
};

template <typename T>
void beam_rows(const Beams<T>& b, int64_t begin, int64_t end, const BeamScratch<T>& scratch) {
  for (int64_t first = begin; first < end; first += kBeamRows) {
    BeamBlock<T> block(b, first, least_of(first + kBeamRows, end), scratch);
    if (b.distances) {
      block.search();
      continue;
    }
    for (int64_t level = 0; level < b.levels; ++level) block.choose(level);
    block.finish();
  }
}

}  // namespace
}  // namespace km::KM_TARGET
