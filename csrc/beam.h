// Codes of several levels whose centroids add up to a row, the best few choices at each level.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "many.h"

namespace {

// The best choices of one row, the best first.
struct Choices {
  static constexpr int kMost = KM_MOST_BEAMS;
  float score[kMost];
  int32_t vector[kMost], code[kMost];
  int count;

  float least(int wanted) const { return count < wanted ? -kInfinity : score[count - 1]; }

  void add(float value, int32_t from, int32_t chosen, int wanted) {
    int place = count < wanted ? count++ : wanted - 1;
    for (; place > 0 && score[place - 1] < value; --place) {
      score[place] = score[place - 1];
      vector[place] = vector[place - 1];
      code[place] = code[place - 1];
    }
    score[place] = value;
    vector[place] = from;
    code[place] = chosen;
  }
};

// Rows begin to begin + count, at most kBeamRows. left and next (kBeamRows beams, d) hold what
// the choices so far leave, chosen and after (kBeamRows beams, levels) their codes.
struct BeamBlock {
  const km_beam& b;
  int count;
  float *left, *next;
  int32_t *chosen, *after;
  int beams = 1;

  void start(int64_t begin) {
    for (int i = 0; i < count; ++i)
      std::memcpy(left + i * b.d, b.x + (begin + i) * b.d, size_t(b.d) * sizeof(float));
  }

  // Vectors are (count, beams).
  void choose(int64_t level) {
    Choices best[kBeamRows];
    float offset[kBeamRows * KM_MOST_BEAMS];
    const int vectors = count * beams;
    const int wanted = static_cast<int>(least_of<int64_t>(b.beam_size, beams * b.k));
    for (int i = 0; i < count; ++i) best[i].count = 0;
    for (int v = 0; v < vectors; ++v) {
      const float* numbers = left + v * b.d;
      const int64_t whole = b.d / kLanes * kLanes;
      float squares = squared_norm(numbers, whole);
      for (int64_t j = whole; j < b.d; ++j) squares += numbers[j] * numbers[j];
      offset[v] = -0.5f * squares;
    }
    const int64_t panels = (b.k + kLanes - 1) / kLanes;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const float* packed = b.packed + (level * panels + panel) * (1 + b.d) * kLanes;
      for (int first = 0; first < vectors; first += kRowsTogether) {
        const float* rows[kRowsTogether];
        Sixteen<float> score[kRowsTogether];
        for (int r = 0; r < kRowsTogether; ++r) {
          const int v = least_of(first + r, vectors - 1);
          rows[r] = left + v * b.d;
          score[r] = load(packed);
        }
        add_products(rows, packed + kLanes, b.d, score);
        for (int r = 0; r < kRowsTogether && first + r < vectors; ++r)
          offer(best[(first + r) / beams], first + r, offset[first + r], panel, score[r], wanted);
      }
    }
    for (int i = 0; i < count; ++i) {
      for (int w = best[i].count; w < wanted; ++w) {  // scores that overflow are never offered
        best[i].vector[w] = i * beams;
        best[i].code[w] = 0;
      }
      for (int w = 0; w < wanted; ++w) take(level, best[i], w, i * wanted + w);
    }
    float* const vectors_before = left;
    left = next;
    next = vectors_before;
    int32_t* const codes_before = chosen;
    chosen = after;
    after = codes_before;
    beams = wanted;
  }

  void offer(Choices& best, int vector, float offset, int64_t panel, const Sixteen<float>& score,
             int wanted) const {
    unsigned lanes = at_least(score, best.least(wanted) - offset);
    if (!lanes) return;
    float scores[kLanes];
    store(scores, score);
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      const int64_t code = panel * kLanes + lane;
      if (code < b.k && scores[lane] + offset > best.least(wanted))
        best.add(scores[lane] + offset, vector, static_cast<int32_t>(code), wanted);
    }
  }

  void take(int64_t level, const Choices& best, int w, int to) {
    const float* from = left + best.vector[w] * b.d;
    const float* centroid = b.codebooks + (level * b.k + best.code[w]) * b.d;
    for (int64_t j = 0; j < b.d; ++j) next[to * b.d + j] = from[j] - centroid[j];
    std::memcpy(after + to * b.levels, chosen + best.vector[w] * b.levels,
                size_t(level) * sizeof(int32_t));
    after[to * b.levels + level] = best.code[w];
  }

  // The first choice of each row is the best.
  void finish(int64_t begin) const {
    for (int i = 0; i < count; ++i) {
      for (int64_t level = 0; level < b.levels; ++level)
        b.codes[(begin + i) * b.levels + level] = chosen[i * beams * b.levels + level];
      std::memcpy(b.left + (begin + i) * b.d, left + i * beams * b.d, size_t(b.d) * sizeof(float));
    }
  }
};

// See km_kernel::beam.
void beam_rows(const km_beam& b, int64_t begin, int64_t end, float* vectors, int32_t* codes) {
  const int64_t most = kBeamRows * b.beam_size;
  for (int64_t first = begin; first < end; first += kBeamRows) {
    BeamBlock block{b,       static_cast<int>(least_of<int64_t>(kBeamRows, end - first)),
                    vectors, vectors + most * b.d,
                    codes,   codes + most * b.levels};
    block.start(first);
    for (int64_t level = 0; level < b.levels; ++level) block.choose(level);
    block.finish(first);
  }
}

}  // namespace
