// The E-step for many features: bounds discard nearly all centroids, the squared distance
// decides among the rest.
//
// With coordinates z of a row and of a centroid, directions of a contraction and the norm r of
// what they leave out, ‖x - c‖² ≥ ‖x‖² + ‖c‖² - 2 (z_x·z_c + r_x r_c) by Cauchy and Schwarz.
// score = z_x·z_c + r_x r_c - ½‖c‖²: the higher the nearer. A centroid twice as far from the
// own one of a row as the row is cannot be nearer to it. Bounds on distances are kept from call to
// call, less what the centroids have moved since (Elkan, ICML 2003; for groups of
// centroids Ding et al., Yinyang k-means, ICML 2015), a byte each, in steps that are rounded
// down. Each bound allows for rounding, so that what is left out could not have won.
#pragma once

#include "kernel/many/coordinates-inl.h"
#include "kernel/simd/bytes64-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr float kFuzz = 1e-3f;  // of a step, for rounding

// The label of the last call; those of a result others may have written over.
template <typename T>
inline int64_t label_before(const Search<T>& s, const int64_t* labels, int64_t row) {
  if (s.labels) return s.labels[row];
  return labels[row] >= 0 && labels[row] < s.places.k ? labels[row] : 0;
}

// Rows that are searched together.
template <typename T>
struct Block {
  // Rows begin to begin + some; nothing is read yet.
  Block(const km_rows& all, const Search<T>& search, int64_t begin, int some,
        const Scratch<T>& scratch)
      : s(search), count(some), first(begin), all_(all), scratch_(scratch) {
    bounds = s.bounds.steps ? s.bounds.steps + first * s.bounds.groups : nullptr;
    base = s.bounds.steps ? s.bounds.base + first : nullptr;
    coordinates =
        s.rows.coordinates ? s.rows.coordinates + first * s.coordinates.pitch : scratch.coordinates;
    for (int i = 0; i < kBlock; i += kLanes) {
      store(norm + i, broadcast(0.0f));
      store(unit + i, broadcast(0.0f));
    }
  }

  // Finds some rows, a bit each: where they are if they can be read there, else copied.
  void read(uint64_t some) {
    if (as_they_are(all_, s.places.stride)) {
      row_pitch = all_.row_stride;
      rows = static_cast<const T*>(all_.x) + first * row_pitch;
      return;
    }
    T* const copies = scratch_.rows;
    row_pitch = s.places.stride;
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
    if (!s.coordinates.directions) return;
    const size_t bytes = size_t(count) * sizeof(float);
    if (s.rows.measured) {
      std::memcpy(norm, s.rows.norms + first, bytes);
    } else {
      read();
      measure_rows(
          s.coordinates, [this](int i) { return row(i); }, s.places.d, s.places.stride, count,
          scratch_.centered, scratch_.along, coordinates, norm);
      if (s.rows.norms) std::memcpy(s.rows.norms + first, norm, bytes);
    }
    for (int i = 0; i < kBlock; i += kLanes) store(unit + i, unit_of(load(norm + i)));
  }

  const Search<T>& s;
  const int count;
  const int64_t first;  // number of the first row
  const T* rows = nullptr;
  int64_t row_pitch = 0;
  int32_t* coordinates;   // (count, pitch)
  uint8_t* bounds;        // (groups, kBlock) or null
  float* base;            // (kBlock), of bounds, in steps
  float norm[kBlock];     // squared
  float unit[kBlock];     // of the coordinates
  T best[kBlock];         // squared distance of the nearest so far
  int32_t place[kBlock];  // and where it is
  float enough[kBlock];   // a score below cannot win
  uint64_t measured = 0;  // rows, a bit each, whose best is what it says

  const T* row(int i) const { return rows + i * row_pitch; }
  const int32_t* coordinates_of(int i) const { return coordinates + i * s.coordinates.pitch; }
  const T* centroid(int64_t where) const { return s.places.centroids + where * s.places.stride; }
  T distance_to(int i, int64_t where) const {
    return squared_distance(row(i), centroid(where), s.places.stride);
  }

  // Takes a centroid for the nearest so far.
  void take(int i, int64_t where, T distance) {
    place[i] = static_cast<int32_t>(where);
    best[i] = distance;
    enough[i] = enough_for(norm[i], static_cast<float>(best[i]));
  }

  // A score below which a centroid is not nearer to a row than at a squared distance.
  float enough_for(float square, float distance) const {
    return 0.5f * (square * (1 - s.coordinates.margin) - distance * s.coordinates.slack) -
           1.5f * kTiny * kTiny;
  }

  // Whether bounds hold: nothing overflows.
  bool good(int i) const { return norm[i] < kTooLarge && best[i] < kTooLarge; }

  // At most the distance that was computed squared, and at least it.
  float root_below(T distance) const {
    const float root =
        square_root(static_cast<float>(distance)) * (2 - s.coordinates.slack) - kTiny;
    return root > 0 ? root : 0;
  }
  float root_above(T distance) const {
    return square_root(static_cast<float>(distance)) * s.coordinates.slack + kTiny;
  }

  // What a score tells of a distance is twice the score less than this, squared.
  float least_norm(int i) const { return norm[i] * (1 - s.coordinates.margin) - kTiny * kTiny; }

  float least_distance(int i, float score) const {
    const float square = least_norm(i) - 2 * score;
    return square_root(square > 0 ? square : 0) * (1 - 2e-6f);
  }

  // From where on the bounds of a row are counted: its distance is 64 steps above.
  void set_base(int i) { base[i] = root_above(best[i]) * s.bounds.per_step - 32; }

  // A bound on a distance as it is kept: of no use where 0.
  uint8_t in_steps(int i, int64_t group, float distance) const {
    const float steps =
        distance * s.bounds.per_step + (s.bounds.drift_below[group] - base[i]) - kFuzz;
    const float from_0 = steps > 0 ? steps : 0;
    return static_cast<uint8_t>(static_cast<int>(from_0 < 255 ? from_0 : 255));
  }

  // Says that a centroid is at least so far.
  void bound(int i, int64_t where, float distance) {
    if (!bounds) return;
    const int64_t group = s.bounds.group_of[where];
    uint8_t& kept = bounds[group * kBlock + i];
    kept = least_of(kept, in_steps(i, group, distance));
  }

  // The exact distance to a centroid that may be the nearest.
  void look(int i, int64_t where) {
    if (where == place[i] || where >= s.places.k) return;
    compare(i, where, distance_to(i, where));
  }
  void compare(int i, int64_t where, T distance) {
    if (distance < best[i] ||
        (distance == best[i] && s.places.index[where] < s.places.index[place[i]])) {
      bound(i, place[i], root_below(best[i]));
      take(i, where, distance);
    } else {
      bound(i, where, root_below(distance));
    }
  }

  void try_all(int i) {
    place[i] = s.places.position[0];
    best[i] = distance_to(i, s.places.position[0]);
    for (int64_t c = 1; c < s.places.k; ++c) {
      const T distance = distance_to(i, s.places.position[c]);
      if (distance < best[i]) {
        best[i] = distance;
        place[i] = s.places.position[c];
      }
    }
    for (int64_t g = 0; bounds && g < s.bounds.groups; ++g) bounds[g * kBlock + i] = 0;
  }

  // Takes the centroids of the last call, and says so again.
  void take_places(int64_t* labels) {
    for (int i = 0; i < count; ++i) {
      const int64_t label = label_before(s, labels, first + i);
      if (labels[first + i] != label) labels[first + i] = label;
      place[i] = s.places.position[label];
      best[i] = 0;
    }
  }

  // Takes how far rows are from these at most. Returns rows, a bit each, that can be nearer to
  // others.
  uint64_t take_reach() {
    constexpr float kRoundedUp = 1 + 4 * kEpsilonOf<float>;
    float* const reach = s.upper.reach + first;
    uint64_t open = 0;
    for (int i = 0; i < count; ++i) {
      reach[i] = (reach[i] + s.upper.drift[place[i]]) * kRoundedUp;
      const float far = farthest(i);
      open |=
          uint64_t{!(s.gaps.nearest && far * far * s.coordinates.slack <= s.gaps.nearest[place[i]])}
          << i;
    }
    return open;
  }

  // Rows, a bit each, whose places have moved farther than that.
  uint64_t drifted(float far) const {
    uint64_t which = 0;
    for (int i = 0; i < count; ++i) which |= uint64_t{s.upper.drift[place[i]] > far} << i;
    return which;
  }

  // How far a row is from its place, at most.
  float farthest(int i) const {
    return measured >> i & 1 ? root_above(best[i]) : s.upper.reach[first + i] * s.coordinates.slack;
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
      plain |= uint64_t{s.gaps.nearest && static_cast<float>(distance) <= s.gaps.nearest[place[i]]}
               << i;
    };
    if (s.places.stride <= 2 * kLanes) {
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
      squared_distances(own, centroids, s.places.stride, distance);
      for (int n = 0; n < taken; ++n) take_own(which[n], distance[n]);
    }
    return plain;
  }

 private:
  const km_rows& all_;
  const Scratch<T>& scratch_;
  uint64_t copied_ = 0;  // rows, a bit each
};

}  // namespace
}  // namespace km::KM_TARGET
