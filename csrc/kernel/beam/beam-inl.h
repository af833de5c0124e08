// A beam search: codes of several levels whose centroids add up to a row (see beams.h). At each
// level every beam v of a row meets every centroid c of the level; the beam_size choices with the
// least ‖v - c‖² become the beams of the next level, v - c each, ties by the number of the beam and
// then of the centroid. The distance that decides is that of the E-step, bit for bit: a beam of
// size 1 takes the codes that labels of the residuals would be, level by level.
//
//   choices-inl.h   the nearest choices of a row, sorted
//   level-inl.h     measuring choices by the deciding distance
//   screen-inl.h    discarding most of them first, by scores
#pragma once

#include "kernel/beam/screen-inl.h"

namespace km::KM_TARGET {
namespace {

// Rows that are searched together, at most kBeamRows, with the beams of each.
template <typename T>
class BeamBlock {
 public:
  // Rows begin to end - 1 of the search, with one beam each: the row itself.
  BeamBlock(const Beams<T>& search, int64_t begin, int64_t end, const BeamScratch<T>& scratch)
      : search_(search), begin_(begin), rows_(static_cast<int>(end - begin)), scratch_(scratch) {
    const int64_t d = search.sizes.d, stride = search.codebooks.stride;
    for (int i = 0; i < rows_; ++i) {
      T* const vector = scratch_.vectors + i * stride;
      std::memcpy(vector, search.x + (begin_ + i) * d, size_t(d) * sizeof(T));
      for (int64_t j = d; j < stride; ++j) vector[j] = 0;
    }
  }

  // Goes down one level: the best choices become the beams.
  void choose(int64_t level) {
    const int wanted = find(level);
    for (int i = 0; i < rows_; ++i)
      for (int w = 0; w < wanted; ++w) extend(level, i, w);
    T* const vectors_before = scratch_.vectors;
    scratch_.vectors = scratch_.next_vectors;
    scratch_.next_vectors = vectors_before;
    int32_t* const codes_before = scratch_.codes;
    scratch_.codes = scratch_.next_codes;
    scratch_.next_codes = codes_before;
    beams_ = wanted;
  }

  // Writes codes and residuals of the first beam of each row, the best one.
  void write_best_beams() const {
    const int64_t d = search_.sizes.d, stride = search_.codebooks.stride;
    const int64_t levels = search_.sizes.levels;
    for (int i = 0; i < rows_; ++i) {
      for (int64_t level = 0; level < levels; ++level)
        search_.result.codes[(begin_ + i) * levels + level] =
            scratch_.codes[i * beams_ * levels + level];
      std::memcpy(search_.result.residuals + (begin_ + i) * d,
                  scratch_.vectors + i * beams_ * stride, size_t(d) * sizeof(T));
    }
  }

  // Finds and writes the choices of the only level: neighbors, nearest first.
  void write_neighbors() {
    const int wanted = find(0);
    for (int i = 0; i < rows_; ++i)
      for (int w = 0; w < wanted; ++w) {
        search_.result.codes[(begin_ + i) * wanted + w] = best_[i].choice[w];
        search_.result.distances[(begin_ + i) * wanted + w] = best_[i].distance[w];
      }
  }

 private:
  // Finds the best choices of each row, and returns how many: beam_size, or all where there are
  // fewer.
  int find(int64_t level) {
    const int wanted =
        static_cast<int>(least_of<int64_t>(search_.sizes.beam_size, beams_ * search_.sizes.k));
    for (int i = 0; i < rows_; ++i) best_[i].start(wanted);
    const Level<T> of_level = level_of(level);
    if (search_.sizes.d <= kFewFeatures)
      of_level.measure_all();
    else
      Screen<T>(of_level, scratch_.centered).run();
    return wanted;
  }

  Level<T> level_of(int64_t level) {
    return {search_, level, scratch_.vectors, rows_, beams_, best_};
  }

  // Choice w of row i becomes its beam w: the centroid is subtracted, its code appended. Each
  // number of v - c is rounded once, in T.
  void extend(int64_t level, int i, int w) {
    const int64_t k = search_.sizes.k, levels = search_.sizes.levels;
    const int64_t stride = search_.codebooks.stride;
    const int64_t to = i * best_[i].wanted + w, choice = best_[i].choice[w];
    const int64_t from = i * beams_ + choice / k, code = choice % k;
    const T* const vector = scratch_.vectors + from * stride;
    const T* const chosen = level_of(level).centroid(code);
    for (int64_t j = 0; j < stride; ++j)
      scratch_.next_vectors[to * stride + j] = vector[j] - chosen[j];
    std::memcpy(scratch_.next_codes + to * levels, scratch_.codes + from * levels,
                size_t(level) * sizeof(int32_t));
    scratch_.next_codes[to * levels + level] = static_cast<int32_t>(code);
  }

  const Beams<T>& search_;
  const int64_t begin_;  // the first row
  const int rows_;
  BeamScratch<T> scratch_;      // whose halves change places from level to level
  int beams_ = 1;               // of each row
  Choices<T> best_[kBeamRows];  // (rows): of the level that was searched last
};

// See Kernel::beam.
template <typename T>
void beam_rows(const Beams<T>& search, int64_t begin, int64_t end, const BeamScratch<T>& scratch) {
  for (int64_t first = begin; first < end; first += kBeamRows) {
    BeamBlock<T> block(search, first, least_of(first + kBeamRows, end), scratch);
    if (search.result.distances) {
      block.write_neighbors();
      continue;
    }
    for (int64_t level = 0; level < search.sizes.levels; ++level) block.choose(level);
    block.write_best_beams();
  }
}

}  // namespace
}  // namespace km::KM_TARGET
