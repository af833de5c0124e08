// Seeding where bounds tell most candidates to be farther than the nearest center so far.
//
#pragma once

#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// Pairs of a row of a block and a candidate that may be nearer than the nearest center so far.
template <typename T>
class Offers {
 public:
  Offers(Block<T>& block, const T* nearest, const double* weights, double* potential,
         uint16_t* reached)
      : block_(block),
        nearest_(nearest),
        weights_(weights),
        potential_(potential),
        reached_(reached) {}

  void add(int i, int64_t where) {
    block_.expect(i);
    row_[count_] = static_cast<uint8_t>(i);
    where_[count_++] = static_cast<int32_t>(where);
    if (count_ == kMost) look();
  }

  // Adds to potentials what the candidates change. Rows have come from memory meanwhile.
  void look() {
    uint64_t some = 0;
    for (int pair = 0; pair < count_; ++pair) some |= uint64_t{1} << row_[pair];
    block_.read(some);
    for (int first = 0; first < count_; first += kTogether) {
      const T *rows[kTogether], *candidates[kTogether];
      T distance[kTogether];
      for (int n = 0; n < kTogether; ++n) {  // missing ones repeat the last
        const int pair = least_of(first + n, count_ - 1);
        rows[n] = block_.row(row_[pair]);
        candidates[n] = block_.centroid(where_[pair]);
      }
      squared_distances(rows, candidates, block_.s.places.stride, distance);
      for (int n = 0; n < least_of(kTogether, count_ - first); ++n)
        offer(row_[first + n], where_[first + n], distance[n]);
    }
    count_ = 0;
  }

 private:
  static constexpr int kTogether = 4;
  static constexpr int kMost = 64;

  void offer(int i, int64_t where, T distance) {
    const int64_t number = block_.first + i;
    const T near = nearest_[number];
    if (!(distance < near)) return;
    const double weight = weights_ ? weights_[number] : 1.0;
    const bool first_center = near == kInfinityOf<T>;
    potential_[where] += weight * (first_center ? distance : double(distance) - near);
    if (where < 16) reached_[number] |= static_cast<uint16_t>(1u << where);
  }

  Block<T>& block_;
  const T* const nearest_;
  const double* const weights_;
  double* const potential_;
  uint16_t* const reached_;
  int count_ = 0;
  uint8_t row_[kMost];
  int32_t where_[kMost];
};

// Coordinates of a tile of a block, from row number begin on, and squared norms: those that are
// kept, or else they are measured and kept.
template <typename T>
void find_columns(Block<T>& block, int begin, int some, const Scratch<T>& scratch, Columns& columns,
                  float* norm) {
  const Search<T>& s = block.s;
  const int64_t numbers = s.coordinates.width * kRowsInLanes, first = block.first + begin;
  int32_t* const kept = s.rows.columns ? s.rows.columns + first / kRowsInLanes * numbers : nullptr;
  if (s.rows.measured) {
    columns.pairs = kept;
    for (int r = 0; r < kRowsInLanes; r += kLanes) {
      const Sixteen<float> norms = load(s.rows.norms + first + r);
      store(norm + r, norms);
      store(columns.unit + r, unit_of(norms));
    }
    return;
  }
  uint8_t which[kRowsInLanes];
  for (int r = 0; r < some; ++r) which[r] = static_cast<uint8_t>(begin + r);
  fill_columns(block, which, some, scratch, columns);
  for (int r = 0; r < some; ++r) norm[r] = block.norm[begin + r];
  if (!kept) return;
  std::memcpy(kept, columns.pairs, size_t(numbers) * sizeof(int32_t));
  for (int r = 0; r < kRowsInLanes; ++r) s.rows.norms[first + r] = norm[r];
}

// Offers those of the candidates to the rows of a tile that bounds do not keep off.
template <typename T>
void offer_near(Block<T>& block, const T* nearest, int begin, int some, const Scratch<T>& scratch,
                Offers<T>& offers) {
  const Search<T>& s = block.s;
  Columns columns;
  alignas(64) float norm[kRowsInLanes] = {}, near[kRowsInLanes] = {}, enough[kRowsInLanes];
  find_columns(block, begin, some, scratch, columns, norm);
  if (some == kRowsInLanes)  // a loop that compilers make vectors of
    for (int r = 0; r < kRowsInLanes; ++r)
      near[r] = static_cast<float>(nearest[block.first + begin + r]);
  else
    for (int r = 0; r < some; ++r) near[r] = static_cast<float>(nearest[block.first + begin + r]);
  for (int r = 0; r < kRowsInLanes; ++r) enough[r] = block.enough_for(norm[r], near[r]);
  uint32_t known = 0;  // rows, a bit each, of which bounds tell something
  for (int r = 0; r < kRowsInLanes; r += kLanes)
    known |= (at_least(minus(broadcast(kTooLarge), load(norm + r)), 0) &
              at_least(minus(broadcast(kTooLarge), load(near + r)), 0))
             << r;
  const uint32_t rows = static_cast<uint32_t>((uint64_t{1} << some) - 1);
  Row limit;
  for (int v = 0; v < kRowVectors; ++v) limit[v] = load(enough + v * kLanes);
  for (int64_t where = 0; where < s.places.k; where += kCentroidsInTurn) {
    Row score[kCentroidsInTurn];
    score_places(s.coordinates, [&](int i) { return where + i; }, columns, score);
    for (int i = 0; i < kCentroidsInTurn && where + i < s.places.k; ++i) {
      uint32_t open = ~known;
      for (int v = 0; v < kRowVectors; ++v) open |= at_least(score[i][v], limit[v]) << (v * kLanes);
      for (open &= rows; open; open &= open - 1) offers.add(begin + __builtin_ctz(open), where + i);
    }
  }
}

// See Kernel::potentials_by_bounds.
template <typename T>
void potentials_by_bounds(const km_rows& rows, const Search<T>& s, const T* nearest, int64_t begin,
                          int64_t end, double* potential, uint16_t* reached,
                          const Scratch<T>& scratch) {
  double total[kLanes] = {};  // that need not wait for each other
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    Block<T> block(rows, s, first, count, scratch);
    if (!(s.rows.columns && s.rows.measured)) {
      block.read();
      block.find_coordinates();
    }
    Offers<T> offers(block, nearest, rows.weights, potential, reached);
    std::memset(reached + first, 0, size_t(count) * sizeof(*reached));
    if (!rows.weights && count == kBlock)
      for (int i = 0; i < kBlock; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) {
          const T near = nearest[first + i + lane];
          total[lane] += near < kInfinityOf<T> ? near : T(0);
        }
    else
      for (int i = 0; i < count; ++i) {
        const T near = nearest[first + i];
        const double weight = rows.weights ? rows.weights[first + i] : 1.0;
        total[i % kLanes] += near < kInfinityOf<T> ? weight * near : 0.0;
      }
    for (int tile = 0; s.places.count && tile < count; tile += kRowsInLanes)
      offer_near(block, nearest, tile, least_of(kRowsInLanes, count - tile), scratch, offers);
    for (int64_t where = 0; !s.places.count && where < s.places.k; ++where)
      for (int i = 0; i < count; ++i) offers.add(i, where);
    offers.look();
  }
  double all = 0;
  for (double part : total) all += part;
  for (int64_t c = 0; c < s.places.k; ++c) potential[c] += all;
}

// See Kernel::lower_reached.
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
    const T* x = static_cast<const T*>(rows.x) + i * rows.row_stride;
    if (!as_they_are(rows, rows.d > kFewFeatures ? stride : rows.d)) {
      load_rows(rows, i, 1, stride, row);
      x = row;
    }
    const T distance = rows.d > kFewFeatures ? squared_distance(x, center, stride)
                                             : squared_distance_of_few(x, center, rows.d);
    nearest[i] = least_of(nearest[i], distance);
  }
}

// For more features; see Kernel::lower.
template <typename T>
void lower_each(const km_rows& rows, T* nearest, const T* center, int64_t stride, int64_t begin,
                int64_t end, T* block) {
  constexpr int kTogether = 4;
  const T* const centers[kTogether] = {center, center, center, center};
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = least_of<int64_t>(kBlock, end - first);
    const bool read = as_they_are(rows, stride);
    if (!read) load_rows(rows, first, count, stride, block);
    const T* const x = read ? static_cast<const T*>(rows.x) + first * rows.row_stride : block;
    const int64_t pitch = read ? rows.row_stride : stride;
    for (int64_t i = 0; i < count; i += kTogether) {
      const T* some[kTogether];
      T distance[kTogether];
      for (int n = 0; n < kTogether; ++n)  // missing ones repeat the last
        some[n] = x + least_of(i + n, count - 1) * pitch;
      squared_distances(some, centers, stride, distance);
      for (int n = 0; n < least_of<int64_t>(kTogether, count - i); ++n)
        nearest[first + i + n] = least_of(nearest[first + i + n], distance[n]);
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
