// k-means++ above kMeasuredFeatures features: scores tell which candidates are farther from a row
// than the nearest center so far, and only the other pairs are measured.
//
// One step of seeding measures the potentials of some candidates, Σ w min(nearest, ‖x - c‖²), then
// lowers `nearest` by the candidate that is taken. Row by row a mask says which candidates come
// nearer ("reach" the row), so that the second pass touches only the rows of the taken candidate.
//
// Candidates stand where centroids do in an E-step: Search<T>.places holds k candidates, and
// Search<T>.rows.columns the coordinates of all rows, tile after tile, kept while seeding lasts. A
// step of seeding then reads 2 bytes a number and only the rows that scores leave in doubt:
//
//     tile 0 (rows 0 to 31)   tile 1 (rows 32 to 63)   ...      columns (tiles, width, lanes)
//         |                       |
//     scores with k candidates, a row to a lane  --(high enough)-->  OfferQueue  -->  potential
#pragma once

#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// Pairs of a row of a block and a candidate that may be nearer than the nearest center so far.
// Pairs are measured once the queue is full. The constructor is the maker.
template <typename T>
class OfferQueue {
 public:
  // nearest (n): squared distances to the nearest center so far, or infinity; weights (n) or null.
  // potential (candidates) is added to; reached (n): bit c is set where candidate c is nearer,
  // for c < kReportedCandidates.
  OfferQueue(BlockRows<T>& block, const T* nearest, const double* weights, double* potential,
             uint16_t* reached)
      : block_(block),
        nearest_(nearest),
        weights_(weights),
        potential_(potential),
        reached_(reached) {}

  // Row i of the block with the candidate at a place; the row starts on its way from memory.
  void add(int i, int64_t place) {
    block_.prefetch(i);
    row_[count_] = static_cast<uint8_t>(i);
    place_[count_++] = static_cast<int32_t>(place);
    if (count_ == kMost) measure();
  }

  // Measures the pairs of the queue, and empties it. The rows have come from memory since `add`.
  void measure() {
    uint64_t rows_of_queue = 0;
    for (int pair = 0; pair < count_; ++pair) rows_of_queue |= uint64_t{1} << row_[pair];
    block_.read(rows_of_queue);
    const Places<T>& places = block_.search.places;
    for (int first = 0; first < count_; first += kPairsTogether) {
      const T *rows[kPairsTogether], *candidates[kPairsTogether];
      T distance[kPairsTogether];
      for (int n = 0; n < kPairsTogether; ++n) {  // after the last pair, the last pair again
        const int pair = least_of(first + n, count_ - 1);
        rows[n] = block_.row(row_[pair]);
        candidates[n] = places.centroids + place_[pair] * places.stride;
      }
      squared_distances(rows, candidates, places.stride, distance);
      for (int n = 0; n < least_of(kPairsTogether, count_ - first); ++n)
        offer(row_[first + n], place_[first + n], distance[n]);
    }
    count_ = 0;
  }

 private:
  static constexpr int kMost = 64;  // pairs: enough for rows to arrive, few enough to stay cached

  // Adds to the potential of a candidate by how much it lowers that of row i: a negative number, or
  // for the first center, before which the potential is infinite, the distance itself.
  void offer(int i, int64_t place, T distance) {
    const int64_t row = block_.first + i;
    const T before = nearest_[row];
    if (!(distance < before)) return;
    const double weight = weights_ ? weights_[row] : 1.0;
    const bool first_center = before == kInfinityOf<T>;
    potential_[place] += weight * (first_center ? distance : double(distance) - before);
    if (place < kReportedCandidates) reached_[row] |= static_cast<uint16_t>(1u << place);
  }

  BlockRows<T>& block_;
  const T* const nearest_;       // (n), squared, or infinity
  const double* const weights_;  // (n), or null for weight 1
  double* const potential_;      // (candidates), weighted sums of squared distances
  uint16_t* const reached_;      // (n), a bit for each of the first kReportedCandidates
  int count_ = 0;                // pairs in the queue, 0 to kMost
  uint8_t row_[kMost];           // of the block
  int32_t place_[kMost];         // of the candidate, 0 to k - 1
};

// A tile of `count` consecutive rows of a block, from row `begin` on, and norm (kRowsInLanes),
// their squared norms: taken from what seeding keeps, or else measured, and kept where there is
// memory. Lanes without a row are void.
template <typename T>
void find_tile(BlockRows<T>& block, int begin, int count, const Scratch<T>& scratch,
               TileCoordinates& tile, float* norm) {
  const Search<T>& s = block.search;
  const int64_t numbers = s.coordinates.width * kRowsInLanes, first = block.first + begin;
  int32_t* const kept = s.rows.columns ? s.rows.columns + first / kRowsInLanes * numbers : nullptr;
  if (s.rows.measured) {  // an earlier step of seeding has written columns and norms
    tile.pairs = kept;
    for (int r = 0; r < kRowsInLanes; r += kLanes) {
      const Sixteen<float> norms = load(s.rows.norms + first + r);
      store(norm + r, norms);
      store(tile.unit + r, unit_of(norms));
    }
    return;
  }
  uint8_t which[kRowsInLanes];
  for (int r = 0; r < count; ++r) which[r] = static_cast<uint8_t>(begin + r);
  fill_tile(block, which, count, scratch, tile);
  for (int r = 0; r < count; ++r) norm[r] = block.norm[begin + r];
  if (!kept) return;
  std::memcpy(kept, tile.pairs, size_t(numbers) * sizeof(int32_t));
  for (int r = 0; r < kRowsInLanes; ++r) s.rows.norms[first + r] = norm[r];
}

// Queues the pairs of a tile's rows and candidates whose scores are high enough to be nearer than
// the nearest center so far; and all pairs of rows for which bounds do not hold. nearest (n).
template <typename T>
void offer_candidates(BlockRows<T>& block, const T* nearest, int begin, int count,
                      const Scratch<T>& scratch, OfferQueue<T>& queue) {
  const Search<T>& s = block.search;
  TileCoordinates tile;
  alignas(64) float norm[kRowsInLanes] = {}, distance[kRowsInLanes] = {}, least[kRowsInLanes];
  find_tile(block, begin, count, scratch, tile, norm);
  if (count == kRowsInLanes)  // a loop of fixed length, of which compilers make vectors
    for (int r = 0; r < kRowsInLanes; ++r)
      distance[r] = static_cast<float>(nearest[block.first + begin + r]);
  else
    for (int r = 0; r < count; ++r)
      distance[r] = static_cast<float>(nearest[block.first + begin + r]);
  for (int r = 0; r < kRowsInLanes; ++r)
    least[r] = least_winning_score(s.coordinates, norm[r], distance[r]);
  // A row is measured against every candidate where bounds do not hold, above all before the first
  // center, when `nearest` is infinite.
  uint32_t bounded = 0;  // rows for which bounds hold, a bit each: norm and distance <= kTooLarge
  for (int r = 0; r < kRowsInLanes; r += kLanes)
    bounded |= (at_least(minus(broadcast(kTooLarge), load(norm + r)), 0) &
                at_least(minus(broadcast(kTooLarge), load(distance + r)), 0))
               << r;
  const uint32_t rows = static_cast<uint32_t>((uint64_t{1} << count) - 1);
  PerRow limit;
  for (int v = 0; v < kRowVectors; ++v) limit[v] = load(least + v * kLanes);
  for (int64_t place = 0; place < s.places.k; place += kCentroidsInTurn) {
    PerRow score[kCentroidsInTurn];
    score_places(s.coordinates, [&](int i) { return place + i; }, tile, score);
    for (int i = 0; i < kCentroidsInTurn && place + i < s.places.k; ++i) {
      uint32_t candidates = ~bounded;  // rows that the candidate may be nearer to
      for (int v = 0; v < kRowVectors; ++v)
        candidates |= at_least(score[i][v], limit[v]) << (v * kLanes);
      for (candidates &= rows; candidates; candidates &= candidates - 1)
        queue.add(begin + __builtin_ctz(candidates), place + i);
    }
  }
}

// Adds the weighted distances nearest (count) of a block to sum (kLanes), in lanes that need not
// wait for one another; infinite ones (before the first center) count as 0. weights (count) or
// null.
template <typename T>
inline void add_nearest(const T* nearest, const double* weights, int count, double (&sum)[kLanes]) {
  if (!weights && count == kBlock) {
    for (int i = 0; i < kBlock; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) {
        const T distance = nearest[i + lane];
        sum[lane] += distance < kInfinityOf<T> ? distance : T(0);
      }
    return;
  }
  for (int i = 0; i < count; ++i) {
    const T distance = nearest[i];
    const double weight = weights ? weights[i] : 1.0;
    sum[i % kLanes] += distance < kInfinityOf<T> ? weight * distance : 0.0;
  }
}

// See Kernel::potentials_by_bounds: potential (k) of each candidate is the present one, Σ w
// nearest, and the changes by its offers. Where candidates have no coordinates (places.count 0),
// all pairs are measured.
template <typename T>
void potentials_by_bounds(const km_rows& rows, const Search<T>& s, const T* nearest, int64_t begin,
                          int64_t end, double* potential, uint16_t* reached,
                          const Scratch<T>& scratch) {
  double present[kLanes] = {};
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    BlockRows<T> block(rows, s, first, count, scratch);
    if (!(s.rows.columns && s.rows.measured)) {
      block.read(block.every());
      block.find_coordinates_along_directions();
    }
    OfferQueue<T> queue(block, nearest, rows.weights, potential, reached);
    std::memset(reached + first, 0, size_t(count) * sizeof(*reached));
    add_nearest(nearest + first, rows.weights ? rows.weights + first : nullptr, count, present);
    for (int tile = 0; s.places.count && tile < count; tile += kRowsInLanes)
      offer_candidates(block, nearest, tile, least_of(kRowsInLanes, count - tile), scratch, queue);
    for (int64_t place = 0; !s.places.count && place < s.places.k; ++place)
      for (int i = 0; i < count; ++i) queue.add(i, place);
    queue.measure();
  }
  double all = 0;  // lane after lane: the same order for any number of rows
  for (double part : present) all += part;
  for (int64_t c = 0; c < s.places.k; ++c) potential[c] += all;
}

// See Kernel::lower_reached: only rows that candidate (0 to 15) is known to reach are measured.
// Masks of four rows, 16 bits each, are tested together, since most are 0.
template <typename T>
void lower_reached(const km_rows& rows, T* nearest, const T* center, int64_t stride,
                   const uint16_t* reached, int candidate, int64_t begin, int64_t end, T* row) {
  const uint64_t in_four = uint64_t{0x0001000100010001} << candidate;
  for (int64_t i = begin; i < end; ++i) {
    uint64_t four = 0;
    if (end - i >= 4) {
      std::memcpy(&four, reached + i, sizeof(four));
      if (!(four & in_four)) {
        i += 3;
        continue;
      }
    }
    if (!(reached[i] >> candidate & 1)) continue;
    const T* x = row_at<T>(rows, i);
    if (!can_be_read_in_place(rows, rows.d > kFewFeatures ? stride : rows.d)) {
      load_rows(rows, i, 1, stride, row);
      x = row;
    }
    const T distance = rows.d > kFewFeatures ? squared_distance(x, center, stride)
                                             : squared_distance_of_few(x, center, rows.d);
    nearest[i] = least_of(nearest[i], distance);
  }
}

// See Kernel::lower, for more than kMeasuredFeatures features: every row is measured, four at a
// time. block (kBlock, stride) is scratch for copies.
template <typename T>
void lower_each(const km_rows& rows, T* nearest, const T* center, int64_t stride, int64_t begin,
                int64_t end, T* block) {
  const T* const centers[kPairsTogether] = {center, center, center, center};
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = least_of<int64_t>(kBlock, end - first);
    const bool in_place = can_be_read_in_place(rows, stride);
    if (!in_place) load_rows(rows, first, count, stride, block);
    const T* const x = in_place ? row_at<T>(rows, first) : block;
    const int64_t pitch = in_place ? rows.row_stride : stride;
    for (int64_t i = 0; i < count; i += kPairsTogether) {
      const T* four[kPairsTogether];
      T distance[kPairsTogether];
      for (int n = 0; n < kPairsTogether; ++n)  // after the last row, the last row again
        four[n] = x + least_of(i + n, count - 1) * pitch;
      squared_distances(four, centers, stride, distance);
      for (int n = 0; n < least_of<int64_t>(kPairsTogether, count - i); ++n)
        nearest[first + i + n] = least_of(nearest[first + i + n], distance[n]);
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
