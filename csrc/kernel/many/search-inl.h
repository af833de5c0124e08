// The E-step for many features: block by block, a strategy finds the labels, and write_results
// stores them.
#pragma once

#include "kernel/many/strategies-inl.h"

namespace km::KM_TARGET {
namespace {

// Writes the labels, distances and upper bounds of the measured rows of a block, adds their
// weighted distances to the inertia and their changes of label to the result. moves: memory for
// moves, of which seen.moves are written already; or null. A row for which bounds do not hold (an
// overflow) is decided here, among all centroids, and its upper bound is infinite. A zero row under
// the cosine metric gets label 0, distance 1 and no weight.
template <typename T>
void write_results(const km_rows& rows, Block<T>& block, const Result<T>& result, Move* moves,
                   Seen& seen) {
  const Search<T>& s = block.search;
  int64_t changed = 0;
  double sum = 0;
  for (uint64_t left = block.measured; left; left &= left - 1) {
    const int i = __builtin_ctzll(left);
    const int64_t row = block.rows.first + i;
    const bool good = block.bounds_hold(i);
    if (!good) block.decide_among_all(i);
    int64_t label = s.places.index[block.nearest[i]];
    T distance = block.distance[i];
    double weight = rows.weights ? rows.weights[row] : 1.0;
    if (s.upper.reach) s.upper.reach[row] = good ? block.root(i) : kInfinity;
    if (rows.cosine) {
      distance /= 2;  // ½‖x - c‖² = 1 - cos
      if (is_zero(block.rows.row(i), s.places.d)) {
        distance = 1;
        label = 0;
        weight = 0;
        if (s.upper.reach) s.upper.reach[row] = kInfinity;  // equally far from all centroids
      }
    }
    const int64_t before = result.warm ? previous_label(s, result.labels, row) : label;
    if (before != label) {
      ++changed;
      if (moves)
        moves[seen.moves++] = {row, static_cast<int32_t>(before), static_cast<int32_t>(label)};
    }
    result.labels[row] = label;
    if (s.labels) s.labels[row] = static_cast<int32_t>(label);
    if (result.distances) result.distances[row] = distance;
    sum += weight * distance;
  }
  *result.changed += result.warm ? changed : block.rows.count;
  *result.inertia += sum;
}

// Rows begin to begin + count, one block: 1 <= count <= kBlock, begin a multiple of kBlock. Rows
// that the strategy has not measured keep their labels, and are not read.
template <typename T>
void search_block(const km_rows& rows, const Search<T>& s, Strategy<T> strategy, int64_t begin,
                  int count, const Result<T>& result, const Scratch<T>& scratch, Seen& seen) {
  Block<T> block(rows, s, begin, count, scratch);
  strategy({block, result, scratch, seen, result.distances || result.sums});
  if (block.measured) write_results(rows, block, result, scratch.moves, seen);
}

// See Kernel::search. The strategy is the same for all blocks of a call, which is what makes it
// possible to say from Search<T> alone which bounds a call reads and writes.
template <typename T>
void search_rows(const km_rows& rows, const Search<T>& s, int64_t begin, int64_t end,
                 const Result<T>& result, const Scratch<T>& scratch, Seen& seen) {
  const Strategy<T> strategy = strategy_for(s, result.warm);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    search_block<T>(rows, s, strategy, first, count, result, scratch, seen);
  }
}

}  // namespace
}  // namespace km::KM_TARGET
