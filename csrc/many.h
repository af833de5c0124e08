// The E-step for many features: bounds discard nearly all centroids, the squared distance
// decides among the rest. Included by kernel.inc, once per instruction set.
//
// With coordinates z of a row and of a centroid, directions of a contraction and the norm r of
// what they leave out, ‖x - c‖² ≥ ‖x‖² + ‖c‖² - 2 (z_x·z_c + r_x r_c) by Cauchy and Schwarz.
// score = z_x·z_c + r_x r_c - ½‖c‖² is computed for sixteen centroids, a panel, at once: the
// higher the nearer. Whole panels are left out by bounds of an earlier call, less what their
// centroids have moved since (Ding et al., Yinyang k-means, ICML 2015). Each bound allows for
// rounding, so that what is left out could not have won.
#pragma once

#include "kernel.h"
#include "rows.h"

namespace {

constexpr int kRowsTogether = KM_ROWS_TOGETHER;  // whose scores are in registers
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kTiny = 1e-18f;  // squares below may lose all their digits
constexpr float kTooLarge = 1e36f;  // squared norms above may overflow: all centroids are tried

// Scores of a few rows with one panel, begun in score.
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

// Scores of the rows of a block with one panel, kRowsTogether at once: found(first, score).
template <typename Found>
inline void for_each_score(const km_search& s, const float* coordinates, const float* rests,
                           int64_t panel, const uint8_t* list, int count, const Found& found) {
  const float* packed = s.packed + panel * (2 + s.coarse) * kLanes;
  const Sixteen<float> start = load(packed);
  const Sixteen<float> rest_of_panel = load(packed + (1 + s.coarse) * kLanes);
  for (int first = 0; first < count; first += kRowsTogether) {
    const float* rows[kRowsTogether];
    Sixteen<float> score[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) {
      rows[r] = coordinates + list[least_of(first + r, count - 1)] * s.pitch;
      score[r] = start;
    }
    add_products(rows, packed + kLanes, s.coarse, score);
    if (s.directions)
      for (int r = 0; r < kRowsTogether; ++r)
        add_product(score[r], rest_of_panel, rests[list[least_of(first + r, count - 1)]]);
    found(first, score);
  }
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

// What the coarse coordinates leave out, at least; pitch - 1 is the last coordinate.
inline float rest_norm(const km_search& s, const float* coordinates, float norm) {
  const int64_t whole = (s.coarse + kLanes - 1) / kLanes * kLanes;
  float squares = squared_norm(coordinates + whole, s.pitch - whole);
  for (int64_t j = s.coarse; j < whole; ++j) squares += coordinates[j] * coordinates[j];
  return std::sqrt(squares + s.blur * norm);
}

template <typename T>
struct Block {
  const km_search& s;
  const T* rows;
  int64_t row_pitch;
  const float* coordinates;
  float* bounds;  // (groups, block) or null
  int count;
  float norm[kMostRows];
  T best[kMostRows];            // squared distance of the nearest so far
  int32_t position[kMostRows];  // and where it is
  float enough[kMostRows];      // a score below cannot win

  const T* row(int i) const { return rows + i * row_pitch; }

  T distance_to(int i, int64_t where) const {
    return squared_distance(row(i), static_cast<const T*>(s.centroids) + where * s.stride,
                            s.stride);
  }

  // Takes a centroid for the nearest so far.
  void take(int i, int64_t where, T distance) {
    position[i] = static_cast<int32_t>(where);
    best[i] = distance;
    expect(i, distance);
  }

  // Says how high a score may win against a distance.
  void expect(int i, T distance) {
    const float reach = static_cast<float>(distance) * s.slack;
    enough[i] = 0.5f * (norm[i] * (1 - s.margin) - reach) - kTiny * kTiny;
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

  void bound(int i, int64_t panel, float distance) {
    if (!bounds) return;
    const int64_t group = panel / s.together;
    float& kept = bounds[group * s.block + i];
    const float value = (distance + s.moved_least[group]) * (1 - 1e-6f);
    kept = value < kept ? value : kept;
  }

  // A squared distance that a centroid is not nearer than, by the second bound, if that is
  // farther than the nearest so far; else 0.
  float too_far(int i, int64_t where) const {
    if (!s.fine || !good(i)) return 0;
    const float square =
        squared_distance(coordinates + i * s.pitch,
                         s.coordinates_of_centroids + where * s.pitch, s.fine) -
        s.fine_margin * (norm[i] + s.norms_of_centroids[where]);
    return square > static_cast<float>(best[i]) * s.slack + kTiny * kTiny ? square : 0;
  }

  // Looks at the lanes of a panel that may win, and takes them out of the scores.
  Sixteen<float> look(int i, int64_t panel, unsigned lanes, Sixteen<float> score) {
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      const int64_t where = panel * kLanes + lane;
      score = without(score, lane);
      if (where == position[i] || where >= s.k) continue;
      if (const float square = too_far(i, where)) {
        bound(i, panel, root_below(T(square)));
        continue;
      }
      const T distance = distance_to(i, where);
      if (distance < best[i] ||
          (distance == best[i] && s.index[where] < s.index[position[i]])) {
        bound(i, position[i] / kLanes, root_below(best[i]));
        take(i, where, distance);
      } else {
        bound(i, panel, root_below(distance));
      }
    }
    return score;
  }

  // Looks at a panel for up to kRowsTogether rows whose scores are known; tops gets the
  // highest scores of those that were not looked at.
  void look_at(int64_t panel, const uint8_t* list, int some,
               Sixteen<float> (&score)[kRowsTogether], float* tops) {
    for (int r = 0; r < kRowsTogether && r < some; ++r)
      if (const unsigned lanes = at_least(score[r], enough[list[r]]))
        score[r] = look(list[r], panel, lanes, score[r]);
    if (bounds) largest_of_each(score, tops);
  }

  // Bounds the distances of the rows of a list to what was not looked at in a panel.
  void bound_all(int64_t panel, const uint8_t* list, int listed, const float* tops) {
    if (!bounds) return;
    const int64_t group = panel / s.together;
    const float moved = s.moved_least[group];
    float values[kMostRows];
    for (int r = 0; r < listed; ++r) values[r] = norm[list[r]];
    for (int r = 0; r < listed; ++r) {
      const float square = values[r] * (1 - s.margin) - 2 * tops[r] - kTiny * kTiny;
      values[r] = (std::sqrt(square > 0 ? square : 0) + moved) * (1 - 2e-6f);
    }
    float* kept = bounds + group * s.block;
    for (int r = 0; r < listed; ++r)
      kept[list[r]] = values[r] < kept[list[r]] ? values[r] : kept[list[r]];
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

  // Where the score of a row is highest; scores (16 panels).
  int64_t highest(const float* scores) const {
    Sixteen<float> top = load(scores);
    for (int64_t panel = 1; panel < s.panels; ++panel) {
      const Sixteen<float> score = load(scores + panel * kLanes);
      for (int v = 0; v < Sixteen<float>::kParts; ++v)
        top.part[v] = score.part[v] > top.part[v] ? score.part[v] : top.part[v];
    }
    const float limit = largest(top);
    for (int64_t panel = 0; panel < s.panels; ++panel)
      if (const unsigned equal = at_least(load(scores + panel * kLanes), limit))
        return least_of(panel * kLanes + __builtin_ctz(equal), s.k - 1);
    return 0;
  }
};

// For each panel the rows that its bounds do not keep off; visited says which are in any.
template <typename T>
void make_lists(Block<T>& block, const km_scratch& scratch, bool* visited) {
  const km_search& s = block.s;
  float reach[kMostRows];
  for (int i = 0; i < block.count; ++i) {
    reach[i] = block.best[i] < kTooLarge ? block.root_above(block.best[i]) : -kInfinity;
    visited[i] = false;
  }
  for (int i = block.count; i < s.block; ++i) reach[i] = -kInfinity;
  for (int64_t group = 0; group < s.groups; ++group) {
    const int64_t first_panel = group * s.together;
    uint8_t* list = scratch.lists + first_panel * s.block;
    int listed = 0;
    float* bounds = block.bounds + group * s.block;
    const float moved = s.moved_most[group];
    for (int first = 0; first < block.count; first += kLanes) {
      Sixteen<float> limit = load(reach + first);
      for (int v = 0; v < Sixteen<float>::kParts; ++v) limit.part[v] += moved;
      unsigned near = ~at_least(load(bounds + first), limit) & 0xffffu;
      if (block.count - first < kLanes) near &= (1u << (block.count - first)) - 1;
      for (; near; near &= near - 1) {
        const int i = first + __builtin_ctz(near);
        list[listed++] = static_cast<uint8_t>(i);
        bounds[i] = kInfinity;
        visited[i] = true;
      }
    }
    for (int64_t panel = first_panel; panel < least_of(s.panels, first_panel + s.together);
         ++panel) {
      if (panel > first_panel)
        std::memcpy(scratch.lists + panel * s.block, list, size_t(listed));
      scratch.counts[panel] = listed;
    }
  }
}

// Rows of which nothing is known: where the score is highest is a first guess. Some rows at a
// time, so that their scores stay in a nearby cache.
template <typename T>
void search_afresh(Block<T>& block, const float* rests, float* scores, float* tops) {
  const km_search& s = block.s;
  const int64_t places = s.panels * kLanes;
  uint8_t list[kMostRows];
  for (int first = 0; first < block.count; first += s.tile) {
    const int some = least_of(s.tile, block.count - first);
    for (int i = 0; i < some; ++i) list[i] = static_cast<uint8_t>(first + i);
    for (int64_t panel = 0; panel < s.panels; ++panel)
      for_each_score(s, block.coordinates, rests, panel, list, some,
                     [&](int begin, const Sixteen<float> (&score)[kRowsTogether]) {
                       for (int r = 0; r < kRowsTogether && begin + r < some; ++r)
                         store(scores + (begin + r) * places + panel * kLanes, score[r]);
                     });
    for (int i = 0; i < some; ++i) {
      const int64_t guess = block.highest(scores + i * places);
      block.take(list[i], guess, block.distance_to(list[i], guess));
      if (!block.good(list[i])) block.enough[list[i]] = kInfinity;
    }
    for (int64_t panel = 0; panel < s.panels; ++panel) {
      for (int begin = 0; begin < some; begin += kRowsTogether) {
        Sixteen<float> score[kRowsTogether];
        for (int r = 0; r < kRowsTogether; ++r)
          score[r] = load(scores + least_of(begin + r, some - 1) * places + panel * kLanes);
        block.look_at(panel, list + begin, some - begin, score, tops + begin);
      }
      block.bound_all(panel, list, some, tops);
    }
  }
}

// The rows of a block, row_pitch apart: where they are if they can be read there, else copied.
template <typename T>
const T* rows_of_block(const km_rows& rows, const km_search& s, int64_t first, int count,
                       const km_scratch& scratch, int64_t& row_pitch) {
  if (rows.column_stride == 1 && !rows.cosine && s.stride == s.d) {
    row_pitch = rows.row_stride;
    return static_cast<const T*>(rows.x) + first * rows.row_stride;
  }
  row_pitch = s.stride;
  load_rows(rows, first, count, s.stride, static_cast<T*>(scratch.rows));
  return static_cast<const T*>(scratch.rows);
}

// Their coordinates and squared norms, measured at the first time.
template <typename T>
void coordinates_of_block(const km_search& s, const T* rows, int64_t row_pitch, int64_t first,
                          int count, const km_scratch& scratch, float* coordinates, float* norms) {
  if (s.measured) {
    std::memcpy(norms, s.norms + first, size_t(count) * sizeof(float));
    return;
  }
  measure_rows(s, rows, row_pitch, count, scratch.centered, coordinates, norms);
  if (s.norms) std::memcpy(s.norms + first, norms, size_t(count) * sizeof(float));
}

template <typename T>
int64_t search_block(const km_rows& rows, const km_search& s, int64_t first, int count,
                     const km_result& result, const km_scratch& scratch, double& inertia,
                     int64_t& changed) {
  int64_t row_pitch = 0;
  const T* x = rows_of_block<T>(rows, s, first, count, scratch, row_pitch);
  float* coordinates = s.coordinates ? s.coordinates + first * s.pitch : scratch.coordinates;
  Block<T> block{s, x, row_pitch, coordinates, nullptr, count, {}, {}, {}, {}};
  if (s.bounds) block.bounds = s.bounds + first * s.groups;

  int64_t visits = 0;
  if (s.panels) {
    uint8_t everyone[kMostRows];
    for (int i = 0; i < kMostRows; ++i) everyone[i] = static_cast<uint8_t>(i);
    float tops[kMostRows + kRowsTogether], rests[kMostRows];
    const bool listed = result.warm && s.bounded && (s.measured || !s.coordinates);
    if (listed) {
      // Only rows that their bounds do not keep off everywhere need coordinates.
      bool visited[kMostRows];
      for (int i = 0; i < count; ++i) {
        block.position[i] = s.position[result.labels[first + i]];
        block.best[i] = block.distance_to(i, block.position[i]);
        block.norm[i] = 0;
      }
      make_lists(block, scratch, visited);
      for (int i = 0; i < count; ++i) {
        if (!visited[i]) continue;
        if (s.measured)
          block.norm[i] = s.norms[first + i];
        else
          measure_rows(s, block.row(i), row_pitch, 1, scratch.centered,
                       coordinates + i * s.pitch, block.norm + i);
        if (s.directions) rests[i] = rest_norm(s, coordinates + i * s.pitch, block.norm[i]);
        block.expect(i, block.best[i]);
      }
    } else {
      coordinates_of_block(s, x, row_pitch, first, count, scratch, coordinates, block.norm);
      for (int i = 0; s.directions && i < count; ++i)
        rests[i] = rest_norm(s, coordinates + i * s.pitch, block.norm[i]);
      for (int64_t b = 0; block.bounds && b < s.groups * s.block; ++b)
        block.bounds[b] = kInfinity;
      for (int i = 0; result.warm && i < count; ++i) {
        const int64_t guess = s.position[result.labels[first + i]];
        block.take(i, guess, block.distance_to(i, guess));
      }
    }
    if (!result.warm) {
      visits = count * s.panels;
      search_afresh(block, rests, scratch.scores, tops);
    }
    for (int i = 0; result.warm && i < count; ++i)
      if (!block.good(i)) block.enough[i] = kInfinity;
    for (int64_t panel = 0; result.warm && panel < s.panels; ++panel) {
      const uint8_t* list = listed ? scratch.lists + panel * s.block : everyone;
      const int some = listed ? scratch.counts[panel] : count;
      visits += some;
      for_each_score(s, coordinates, rests, panel, list, some,
                     [&](int begin, Sixteen<float> (&score)[kRowsTogether]) {
                       block.look_at(panel, list + begin, some - begin, score, tops + begin);
                     });
      block.bound_all(panel, list, some, tops);
    }
  }

  for (int i = 0; i < count; ++i) {
    if (!s.panels || !block.good(i)) {
      block.try_all(i);
      for (int64_t g = 0; block.bounds && g < s.groups; ++g) block.bounds[g * s.block + i] = 0;
    }
    const int64_t row = first + i;
    const T* features = block.row(i);
    int64_t label = s.index[block.position[i]];
    T distance = block.best[i];
    double weight = rows.weights ? rows.weights[row] : 1.0;
    if (rows.cosine) {
      distance /= 2;
      bool zero = true;
      for (int64_t j = 0; j < s.d && zero; ++j) zero = features[j] == 0;
      if (zero) {
        distance = 1;
        label = 0;
        weight = 0;
      }
    }
    changed += !result.warm || result.labels[row] != label;
    result.labels[row] = label;
    if (result.distances) static_cast<T*>(result.distances)[row] = distance;
    if (!result.sums) {
      inertia += distance;
      continue;
    }
    inertia += weight * distance;
    result.counts[label] += weight;
    double* sum = result.sums + label * s.d;
    for (int64_t j = 0; j < s.d; ++j) sum[j] += weight * features[j];
  }
  return visits;
}

template <typename T>
int64_t search_rows(const km_rows& rows, const km_search& s, int64_t begin, int64_t end,
                    const km_result& result, const km_scratch& scratch) {
  int64_t visits = 0, changed = 0;
  double inertia = 0;
  for (int64_t first = begin; first < end; first += s.block) {
    const int count = static_cast<int>(least_of(s.block, end - first));
    visits += search_block<T>(rows, s, first, count, result, scratch, inertia, changed);
  }
  *result.inertia = inertia;
  *result.changed = changed;
  return visits;
}

}  // namespace
