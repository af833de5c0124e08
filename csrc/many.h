// The E-step for many features: bounds discard nearly all centroids, the squared distance
// decides among the rest. Included by kernel.inc, once per instruction set.
//
// With coordinates z of a row and of a centroid, directions of a contraction and the norm r of
// what they leave out, ‖x - c‖² ≥ ‖x‖² + ‖c‖² - 2 (z_x·z_c + r_x r_c) by Cauchy and Schwarz.
// score = z_x·z_c + r_x r_c - ½‖c‖²: the higher the nearer. A centroid twice as far from the
// own one of a row as the row is cannot be nearer to it. Bounds on distances are kept from call to
// call, less what the centroids have moved since (Elkan, ICML 2003; for groups of
// centroids Ding et al., Yinyang k-means, ICML 2015), a byte each, in steps that are rounded
// down. Each bound allows for rounding, so that what is left out could not have won.
#pragma once

#include "bytes.h"
#include "coordinates.h"

namespace {

constexpr float kFuzz = 1e-3f;  // of a step, for rounding
constexpr float kTooLarge = 1e36f;  // squared norms above may overflow: all centroids are tried

// The label of the last call; those of a result others may have written over.
inline int64_t label_before(const km_search& s, const int64_t* labels, int64_t row) {
  if (s.labels) return s.labels[row];
  return labels[row] >= 0 && labels[row] < s.k ? labels[row] : 0;
}

// Rows that are searched together.
template <typename T>
struct Block {
  // Rows begin to begin + some; nothing is read yet.
  Block(const km_rows& all, const km_search& search, int64_t begin, int some,
        const km_scratch& scratch)
      : s(search), count(some), first(begin), all_(all), scratch_(scratch) {
    bounds = s.bounds ? s.bounds + first * s.groups : nullptr;
    base = s.bounds ? s.base + first : nullptr;
    coordinates = s.coordinates ? s.coordinates + first * s.pitch : scratch.coordinates;
    for (int i = 0; i < kBlock; i += kLanes) {
      store(norm + i, filled(0.0f));
      store(unit + i, filled(0.0f));
    }
  }

  // Finds some rows, a bit each: where they are if they can be read there, else copied.
  void read(uint64_t some) {
    if (as_they_are(all_, s.stride)) {
      row_pitch = all_.row_stride;
      rows = static_cast<const T*>(all_.x) + first * row_pitch;
      return;
    }
    T* const copies = static_cast<T*>(scratch_.rows);
    row_pitch = s.stride;
    rows = copies;
    some &= ~copied_;
    copied_ |= some;
    for (int i = 0; i < count; ++i) {  // runs of rows at once
      const int begin = i;
      while (i < count && some >> i & 1) ++i;
      if (i > begin)
        load_rows(all_, first + begin, i - begin, row_pitch, copies + begin * row_pitch);
    }
  }
  void read() { read(~uint64_t{0} >> (kBlock - count)); }

  // Asks memory for a row that will be read soon.
  void expect(int i) const { fetch_row(all_, first + i); }

  // Finds coordinates and squared norms, where they are along directions.
  void find_coordinates() {
    if (!s.directions) return;
    const size_t bytes = size_t(count) * sizeof(float);
    if (s.measured) {
      std::memcpy(norm, s.norms + first, bytes);
    } else {
      read();
      measure_rows(s, [this](int i) { return row(i); }, count, scratch_, coordinates, norm);
      if (s.norms) std::memcpy(s.norms + first, norm, bytes);
    }
    for (int i = 0; i < kBlock; i += kLanes) store(unit + i, unit_of(load(norm + i)));
  }

  const km_search& s;
  const int count;
  const int64_t first;       // number of the first row
  const T* rows = nullptr;
  int64_t row_pitch = 0;
  int32_t* coordinates;      // (count, pitch)
  uint8_t* bounds;           // (groups, kBlock) or null
  float* base;               // (kBlock), of bounds, in steps
  float norm[kBlock];        // squared
  float unit[kBlock];        // of the coordinates
  T best[kBlock];            // squared distance of the nearest so far
  int32_t place[kBlock];     // and where it is
  float enough[kBlock];      // a score below cannot win
  uint64_t measured = 0;     // rows, a bit each, whose best is what it says

  const T* row(int i) const { return rows + i * row_pitch; }
  const int32_t* coordinates_of(int i) const { return coordinates + i * s.pitch; }
  const T* centroid(int64_t where) const {
    return static_cast<const T*>(s.centroids) + where * s.stride;
  }
  T distance_to(int i, int64_t where) const {
    return squared_distance(row(i), centroid(where), s.stride);
  }

  // Takes a centroid for the nearest so far.
  void take(int i, int64_t where, T distance) {
    place[i] = static_cast<int32_t>(where);
    best[i] = distance;
    enough[i] = enough_for(norm[i], static_cast<float>(best[i]));
  }

  // A score below which a centroid is not nearer to a row than at a squared distance.
  float enough_for(float square, float distance) const {
    return 0.5f * (square * (1 - s.margin) - distance * s.slack) - 1.5f * kTiny * kTiny;
  }

  // Whether bounds hold: nothing overflows.
  bool good(int i) const { return norm[i] < kTooLarge && best[i] < kTooLarge; }

  // At most the distance that was computed squared, and at least it.
  float root_below(T distance) const {
    const float root = std::sqrt(static_cast<float>(distance)) * (2 - s.slack) - kTiny;
    return root > 0 ? root : 0;
  }
  float root_above(T distance) const {
    return std::sqrt(static_cast<float>(distance)) * s.slack + kTiny;
  }

  // What a score tells of a distance is twice the score less than this, squared.
  float least_norm(int i) const { return norm[i] * (1 - s.margin) - kTiny * kTiny; }

  float least_distance(int i, float score) const {
    const float square = least_norm(i) - 2 * score;
    return std::sqrt(square > 0 ? square : 0) * (1 - 2e-6f);
  }

  // From where on the bounds of a row are counted: its distance is 64 steps above.
  void set_base(int i) { base[i] = root_above(best[i]) * s.per_step - 32; }

  // A bound on a distance as it is kept: of no use where 0.
  uint8_t in_steps(int i, int64_t group, float distance) const {
    const float steps = distance * s.per_step + (s.moved_least[group] - base[i]) - kFuzz;
    const float from_0 = steps > 0 ? steps : 0;
    return static_cast<uint8_t>(static_cast<int>(from_0 < 255 ? from_0 : 255));
  }

  // Says that a centroid is at least so far.
  void bound(int i, int64_t where, float distance) {
    if (!bounds) return;
    const int64_t group = s.group_of[where];
    uint8_t& kept = bounds[group * kBlock + i];
    kept = least_of(kept, in_steps(i, group, distance));
  }

  // The exact distance to a centroid that may be the nearest.
  void look(int i, int64_t where) {
    if (where == place[i] || where >= s.k) return;
    compare(i, where, distance_to(i, where));
  }
  void compare(int i, int64_t where, T distance) {
    if (distance < best[i] || (distance == best[i] && s.index[where] < s.index[place[i]])) {
      bound(i, place[i], root_below(best[i]));
      take(i, where, distance);
    } else {
      bound(i, where, root_below(distance));
    }
  }

  void try_all(int i) {
    place[i] = s.position[0];
    best[i] = distance_to(i, s.position[0]);
    for (int64_t c = 1; c < s.k; ++c) {
      const T distance = distance_to(i, s.position[c]);
      if (distance < best[i]) {
        best[i] = distance;
        place[i] = s.position[c];
      }
    }
    for (int64_t g = 0; bounds && g < s.groups; ++g) bounds[g * kBlock + i] = 0;
  }

  // Takes the centroids of the last call, and says so again.
  void take_places(int64_t* labels) {
    for (int i = 0; i < count; ++i) {
      const int64_t label = label_before(s, labels, first + i);
      if (labels[first + i] != label) labels[first + i] = label;
      place[i] = s.position[label];
      best[i] = 0;
    }
  }

  // Takes how far rows are from these at most. Returns rows, a bit each, that can be nearer to
  // others.
  uint64_t take_reach() {
    constexpr float kRoundedUp = 1 + 4 * std::numeric_limits<float>::epsilon();
    float* const reach = s.reach + first;
    uint64_t open = 0;
    for (int i = 0; i < count; ++i) {
      reach[i] = (reach[i] + s.drift[place[i]]) * kRoundedUp;
      const float far = farthest(i);
      open |= uint64_t{!(s.apart && far * far * s.slack <= s.apart[place[i]])} << i;
    }
    return open;
  }

  // Rows, a bit each, whose places have moved farther than that.
  uint64_t drifted(float far) const {
    uint64_t which = 0;
    for (int i = 0; i < count; ++i) which |= uint64_t{s.drift[place[i]] > far} << i;
    return which;
  }

  // How far a row is from its place, at most.
  float farthest(int i) const {
    return measured >> i & 1 ? root_above(best[i]) : s.reach[first + i] * s.slack;
  }

  // Measures some rows, a bit each, against their places. Returns those of which it is plain that
  // no other centroid is nearer.
  uint64_t measure_own(uint64_t some) {
    constexpr int kTogether = 4;
    read(some);
    measured |= some;
    uint64_t plain = 0;
    auto take_own = [&](int i, T distance) {
      take(i, place[i], distance);
      plain |= uint64_t{s.apart && static_cast<float>(distance) <= s.apart[place[i]]} << i;
    };
    if (s.stride <= 2 * kLanes) {
      for (; some; some &= some - 1) {
        const int i = __builtin_ctzll(some);
        take_own(i, distance_to(i, place[i]));
      }
      return plain;
    }
    while (some) {
      int which[kTogether], taken = 0;
      const T *own[kTogether], *centroids[kTogether];
      T distance[kTogether];
      for (int n = 0; n < kTogether; ++n) {  // missing ones repeat the last
        if (some) which[taken++] = __builtin_ctzll(some);
        some &= some - 1;
        own[n] = row(which[taken - 1]);
        centroids[n] = centroid(place[which[taken - 1]]);
      }
      squared_distances(own, centroids, s.stride, distance);
      for (int n = 0; n < taken; ++n) take_own(which[n], distance[n]);
    }
    return plain;
  }

 private:
  const km_rows& all_;
  const km_scratch& scratch_;
  uint64_t copied_ = 0;  // rows, a bit each
};

// Pairs of a row and a centroid that may be its nearest; looked at when there are many.
template <typename T>
class Pairs {
 public:
  explicit Pairs(Block<T>& block) : block_(block) {}

  void add(int i, int64_t where, float score) {
    row_[count_] = static_cast<uint8_t>(i);
    where_[count_] = static_cast<int32_t>(where);
    score_[count_++] = score;
    if (count_ == kMost) look();
  }

  void look() {
    int some = 0, pair[kTogether] = {};
    uint64_t rows = 0;
    for (int p = 0; p < count_; ++p) rows |= uint64_t{1} << row_[p];
    if (rows & ~block_.measured) block_.measure_own(rows & ~block_.measured);
    for (int p = 0; p < count_; ++p) {
      const int i = row_[p];
      if (where_[p] == block_.place[i]) continue;
      if (score_[p] < block_.enough[i]) {  // something nearer was found meanwhile
        block_.bound(i, where_[p], block_.least_distance(i, score_[p]));
        continue;
      }
      pair[some++] = p;
      looked_ |= uint64_t{1} << i;
      if (some == kTogether) compare(pair, some);
    }
    if (some) compare(pair, some);
    count_ = 0;
  }

  // Rows, a bit each, that have been measured.
  uint64_t rows() const { return looked_; }

 private:
  static constexpr int kMost = 512;
  static constexpr int kTogether = 4;

  void compare(const int (&pair)[kTogether], int& some) {
    const T *rows[kTogether], *centroids[kTogether];
    T distance[kTogether];
    for (int n = 0; n < kTogether; ++n) {  // missing ones repeat the first
      const int p = pair[n < some ? n : 0];
      rows[n] = block_.row(row_[p]);
      centroids[n] = block_.centroid(where_[p]);
    }
    squared_distances(rows, centroids, block_.s.stride, distance);
    for (int n = 0; n < some; ++n) block_.compare(row_[pair[n]], where_[pair[n]], distance[n]);
    some = 0;
  }

  Block<T>& block_;
  uint64_t looked_ = 0;
  int count_ = 0;
  uint8_t row_[kMost];
  int32_t where_[kMost];
  float score_[kMost];
};

}  // namespace
