// The E-step for many features: bounds discard nearly all centroids, the squared distance
// decides among the rest. Included by kernel.inc, once per instruction set.
//
// With coordinates z of a row and of a centroid, directions of a contraction and the norm r of
// what they leave out, ‖x - c‖² ≥ ‖x‖² + ‖c‖² - 2 (z_x·z_c + r_x r_c) by Cauchy and Schwarz.
// score = z_x·z_c + r_x r_c - ½‖c‖²: the higher the nearer. Bounds on distances are kept from
// call to call, less what the centroids have moved since (Elkan, ICML 2003; for groups of
// centroids Ding et al., Yinyang k-means, ICML 2015), a byte each, in steps that are rounded
// down. Each bound allows for rounding, so that what is left out could not have won.
#pragma once

#include "kernel.h"
#include "rows.h"

namespace {

constexpr int kRowsTogether = KM_ROWS_TOGETHER;  // whose products are in registers
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kTiny = 1e-18f;  // squares below may lose all their digits
constexpr float kFuzz = 1e-3f;  // of a step, for rounding
constexpr float kTooLarge = 1e36f;  // squared norms above may overflow: all centroids are tried

// Products of a few rows with sixteen others, added to sum.
template <int R>
inline void add_products(const float* const (&row)[R], const float* panel, int64_t width,
                         Sixteen<float> (&score)[R]) {
  Sixteen<float> sum[R];
  for (int r = 0; r < R; ++r) sum[r] = score[r];
  for (int64_t j = 0; j < width; ++j) {
    const Sixteen<float> column = load(panel + j * kLanes);
    for (int r = 0; r < R; ++r) add_product(sum[r], column, row[r][j]);
  }
  for (int r = 0; r < R; ++r) score[r] = sum[r];
}

// Of a multiple of sixteen numbers.
inline float squared_norm(const float* numbers, int64_t count) {
  Sixteen<float> sum = {};
  for (int64_t j = 0; j < count; j += kLanes)
    add_square_of_difference(sum, load(numbers + j), Sixteen<float>{});
  return total(sum);
}

template <typename T>
void measure_rows(const km_search& s, const T* rows, int64_t row_pitch, int count,
                  float* centered, float* coordinates, float* norms) {
  float* from_center = s.directions ? centered : coordinates;
  for (int i = 0; i < count; ++i) {
    Sixteen<float> squares = {};
    for (int64_t j = 0; j < s.stride; j += kLanes) {
      const Sixteen<float> difference = minus(load(rows + i * row_pitch + j), load(s.center + j));
      store(from_center + i * s.stride + j, difference);
      add_square_of_difference(squares, difference, Sixteen<float>{});
    }
    norms[i] = total(squares);
  }
  if (!s.directions) return;
  constexpr int64_t kPart = 128;  // partial sums keep rounding small
  const int64_t p = s.directions;
  for (int first = 0; first < count; first += kRowsTogether) {
    const int together = least_of(kRowsTogether, count - first);
    for (int64_t direction = 0; direction < p; direction += kLanes) {
      Sixteen<float> all[kRowsTogether] = {};
      for (int64_t begin = 0; begin < s.d; begin += kPart) {
        const float* row[kRowsTogether];
        for (int r = 0; r < kRowsTogether; ++r)
          row[r] = centered + (first + least_of(r, together - 1)) * s.stride + begin;
        Sixteen<float> sum[kRowsTogether] = {};
        add_products(row, s.basis + (direction * s.d + begin * kLanes),
                     least_of(kPart, s.d - begin), sum);
        for (int r = 0; r < kRowsTogether; ++r) add(all[r], sum[r]);
      }
      for (int r = 0; r < together; ++r) {
        float lanes[kLanes];
        store(lanes, all[r]);
        std::memcpy(coordinates + (first + r) * s.pitch + direction, lanes,
                    size_t(least_of<int64_t>(kLanes, p - direction)) * sizeof(float));
      }
    }
  }
  for (int i = 0; i < count; ++i) {
    float* z = coordinates + i * s.pitch;
    z[p] = 0;
    const float rest = norms[i] - squared_norm(z, s.pitch);
    z[p] = std::sqrt((rest > 0 ? rest : 0) + s.blur * norms[i]);
  }
}

// Rows that are searched together.
template <typename T>
struct Block {
  // Rows first to first + count: where they are if they can be read there, else copied.
  Block(const km_rows& all, const km_search& search, int64_t first, int some,
        const km_scratch& scratch)
      : s(search), count(some) {
    coordinates = s.coordinates ? s.coordinates + first * s.pitch : scratch.coordinates;
    bounds = s.bounds ? s.bounds + first * s.groups : nullptr;
    base = s.bounds ? s.base + first : nullptr;
    if (all.column_stride == 1 && !all.cosine && s.stride == s.d) {
      row_pitch = all.row_stride;
      rows = static_cast<const T*>(all.x) + first * all.row_stride;
    } else {
      row_pitch = s.stride;
      load_rows(all, first, count, s.stride, static_cast<T*>(scratch.rows));
      rows = static_cast<const T*>(scratch.rows);
    }
  }

  const km_search& s;
  const int count;
  const T* rows;
  int64_t row_pitch;
  float* coordinates;        // (count, pitch)
  uint8_t* bounds;           // (groups, kBlock) or null
  float* base;               // (kBlock), of bounds, in steps
  float norm[kBlock] = {};   // squared
  T best[kBlock];            // squared distance of the nearest so far
  int32_t position[kBlock];  // and where it is
  float enough[kBlock];      // a score below cannot win
  float reach[kBlock] = {};  // nor can a larger square, less the margin of its centroid
  float square[kBlock] = {};  // by all coordinates, of the centroid that was sifted last

  const T* row(int i) const { return rows + i * row_pitch; }

  T distance_to(int i, int64_t where) const {
    return squared_distance(row(i), static_cast<const T*>(s.centroids) + where * s.stride,
                            s.stride);
  }

  // Takes a centroid for the nearest so far.
  void take(int i, int64_t where, T distance) {
    position[i] = static_cast<int32_t>(where);
    best[i] = distance;
    const float far = static_cast<float>(distance) * s.slack;
    enough[i] = 0.5f * (norm[i] * (1 - s.margin) - far) - kTiny * kTiny;
    reach[i] = far + kTiny * kTiny + s.fine_margin * norm[i];
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

  // What a score tells.
  float least_distance(int i, float score) const {
    const float square = norm[i] * (1 - s.margin) - 2 * score - kTiny * kTiny;
    return std::sqrt(square > 0 ? square : 0) * (1 - 2e-6f);
  }

  // From where on the bounds of a row are counted: its distance is 64 steps above.
  void set_base(int i) { base[i] = root_above(best[i]) * s.per_step - 64; }

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

  // Measures some rows, a bit each, along all coordinates: adds those that may be nearest to a
  // centroid to pairs, and bounds the distances of the others.
  template <typename Pairs>
  void sift(uint64_t rows_left, int64_t where, Pairs& pairs) {
    switch (s.pitch) {
      case 16: measure<16>(rows_left, where); break;
      case 32: measure<32>(rows_left, where); break;
      case 64: measure<64>(rows_left, where); break;
      case 96: measure<96>(rows_left, where); break;
      default: measure<0>(rows_left, where);
    }
    const float margin = s.fine_margin * s.norms_of_centroids[where];
    const int64_t group = bounds ? s.group_of[where] : 0;
    for (int first = 0; first < kBlock; first += kLanes) {
      const unsigned some = static_cast<unsigned>(rows_left >> first) & 0xffffu;
      if (!some) continue;
      const Sixteen<float> least = minus(load(square + first), filled(margin));
      const unsigned far = at_least(least, load(reach + first)) & some;
      if (bounds && far)
        lower_to_steps(
            bounds + group * kBlock + first,
            only(far, times_plus(load(norm + first), -s.fine_margin, least), kTooLarge),
            s.per_step, s.moved_least[group], minus(load(base + first), filled(-kFuzz)));
      for (unsigned near = some & ~far; near; near &= near - 1) {
        const int i = first + __builtin_ctz(near);
        const float wide = norm[i] * (1 - s.margin + s.fine_margin + 3e-7f);
        pairs.add(i, where, 0.5f * (wide - (square[i] - margin)));
      }
    }
  }

  // Squared distances of some rows by all coordinates, before any margin.
  template <int kPitch>
  void measure(uint64_t rows_left, int64_t where) {
    const int64_t pitch = kPitch ? kPitch : s.pitch;
    const float* centroid = s.coordinates_of_centroids + where * pitch;
    while (rows_left) {
      int four[4], last = 0;
      Sixteen<float> sums[4] = {};
      for (int& i : four) {  // missing ones repeat the last
        if (rows_left) last = __builtin_ctzll(rows_left);
        rows_left &= rows_left - 1;
        i = last;
      }
      for (int r = 0; r < 4; ++r)
        for (int64_t j = 0; j < pitch; j += kLanes)
          add_square_of_difference(sums[r], load(coordinates + four[r] * pitch + j),
                                   load(centroid + j));
      float found[4];
      totals(sums, found);
      for (int r = 0; r < 4; ++r) square[four[r]] = found[r];
    }
  }

  // The exact distance to a centroid that may be the nearest.
  void look(int i, int64_t where) {
    if (where == position[i] || where >= s.k) return;
    const T distance = distance_to(i, where);
    if (distance < best[i] || (distance == best[i] && s.index[where] < s.index[position[i]])) {
      bound(i, position[i], root_below(best[i]));
      take(i, where, distance);
    } else {
      bound(i, where, root_below(distance));
    }
  }

  void try_all(int i) {
    position[i] = s.position[0];
    best[i] = distance_to(i, s.position[0]);
    for (int64_t c = 1; c < s.k; ++c) {
      const T distance = distance_to(i, s.position[c]);
      if (distance < best[i]) {
        best[i] = distance;
        position[i] = s.position[c];
      }
    }
  }
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
    for (int p = 0; p < count_; ++p) {
      const int i = row_[p];
      if (score_[p] >= block_.enough[i])
        block_.look(i, where_[p]);
      else  // something nearer was found meanwhile
        block_.bound(i, where_[p], block_.least_distance(i, score_[p]));
    }
    count_ = 0;
  }

 private:
  static constexpr int kMost = 512;

  Block<T>& block_;
  int count_ = 0;
  uint8_t row_[kMost];
  int32_t where_[kMost];
  float score_[kMost];
};

// Coordinates and squared norms of the rows of a block, measured at the first time.
template <typename T>
void coordinates_of_block(Block<T>& block, int64_t first, const km_scratch& scratch) {
  const km_search& s = block.s;
  const size_t bytes = size_t(block.count) * sizeof(float);
  if (s.measured) {
    std::memcpy(block.norm, s.norms + first, bytes);
    return;
  }
  measure_rows(s, block.rows, block.row_pitch, block.count, scratch.centered, block.coordinates,
               block.norm);
  if (s.norms) std::memcpy(s.norms + first, block.norm, bytes);
}

}  // namespace
