// Screening: scores, in float, discard choices that are surely not among the nearest of a row.
//
// With o the origin of the level, z = v - o and w = c - o, the score z·w - ½‖w‖² gives
//   ‖v - c‖² = ‖z‖² - 2 score,   to within margin (‖z‖² + ‖w‖²)
// by rounding (margin_of in host/beam.cpp). Hence, with half = -½‖w‖² (1 - margin) in the panels,
//   lower bound  ‖z‖² (1 - margin) - 2 score
//                since half raises the score by ½ margin ‖w‖²
//   upper bound  ‖z‖² (1 + margin) - 2 score + 2 margin ‖w‖²
//                where 2 margin ‖w‖² = -margin_of_half · half
// A choice whose lower bound exceeds the limit of its row is discarded: as many choices as are
// wanted are no farther than the limit. The others become candidates, which the deciding distance
// measures.
#pragma once

#include "kernel/beam/level-inl.h"
#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Squares of z and w below the least normal float underflow; what they could add to a squared
// distance, d · 1.2e-38, is less than this for all d up to 1e7.
constexpr float kTinySquare = 1e-30f;

// The screen of one level; made by BeamBlock::find.
template <typename T>
class Screen {
 public:
  // centered: memory for z, (rows, beams, stride).
  Screen(const Level<T>& level, float* centered) : level_(level), centered_(centered) {}

  // Measures all choices that may be wanted. Panel by panel, whose 16 centroids stay in a cache
  // while all beams of all rows meet them, kRowsTogether at a time.
  void run() {
    const Codebooks<T>& codebooks = level_.search.codebooks;
    const int64_t k = level_.search.sizes.k, d = level_.search.sizes.d;
    const int vectors = level_.rows * level_.beams;
    center();
    const int64_t panels = (k + kLanes - 1) / kLanes;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const float* halves = codebooks.panels + (level_.level * panels + panel) * (1 + d) * kLanes;
      for (int begin = 0; begin < vectors; begin += kRowsTogether) {
        Sixteen<float> score[kRowsTogether];
        for (auto& of_vector : score) of_vector = load(halves);
        for (int64_t j = 0; j < d; j += kProductsInPart) {
          const float* z[kRowsTogether];
          Sixteen<float> sum[kRowsTogether] = {};
          for (int r = 0; r < kRowsTogether; ++r)  // the last vector fills up the group
            z[r] = centered_ + least_of(begin + r, vectors - 1) * codebooks.stride + j;
          add_products(z, halves + (1 + j) * kLanes, least_of(kProductsInPart, d - j), sum);
          for (int r = 0; r < kRowsTogether; ++r) add(score[r], sum[r]);
        }
        for (int v = begin; v < least_of(begin + kRowsTogether, vectors); ++v)
          offer(v, panel * kLanes, halves, score[v - begin], least_[v], most_[v]);
      }
    }
    for (int i = 0; i < level_.rows; ++i) level_.measure_candidates(i);
  }

 private:
  // z of all vectors, and bounds on ‖z‖².
  void center() {
    const int64_t stride = level_.search.codebooks.stride;
    const float margin = level_.search.codebooks.margin;
    const T* const origin = level_.centroid(level_.search.codebooks.origins[level_.level]);
    for (int v = 0; v < level_.rows * level_.beams; ++v) {
      float* const z = centered_ + v * stride;
      const T* const vector = level_.vectors + v * stride;
      for (int64_t j = 0; j < stride; ++j) z[j] = static_cast<float>(vector[j] - origin[j]);
      const float norm = squared_norm(z, stride);
      least_[v] = norm * (1 - margin) - kTinySquare;
      most_[v] = norm * (1 + margin) + kTinySquare;
      if (norm < kTooLarge) continue;
      // Products could overflow: with z = 0 and these bounds all choices are measured.
      std::memset(z, 0, size_t(stride) * sizeof(float));
      least_[v] = -kInfinity;
      most_[v] = kInfinity;
    }
  }

  // Makes candidates of the choices of vector v and centroids code to code + 15 that may be wanted.
  // least and most are the bounds on ‖z‖²; halves (16) is the first line of the panel.
  void offer(int v, int64_t code, const float* halves, const Sixteen<float>& score, float least,
             float most) {
    const int64_t k = level_.search.sizes.k;
    Choices<T>& of_row = level_.best[v / level_.beams];
    unsigned lanes = at_least(score, 0.5f * (least - of_row.limit));
    if (!lanes) return;
    float scores[kLanes];
    store(scores, score);
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      if (code + lane >= k) return;
      const float lower = least - 2 * scores[lane];
      if (lower > of_row.limit) continue;  // the limit may have fallen since
      if (of_row.candidates == of_row.kRoom) level_.measure_candidates(v / level_.beams);
      of_row.least[of_row.candidates] = lower;
      of_row.candidate[of_row.candidates++] = v % level_.beams * k + code + lane;
      if (scores[lane] < kInfinity)
        of_row.add_bound(most - 2 * scores[lane] -
                         level_.search.codebooks.margin_of_half * halves[lane]);
    }
  }

  const Level<T>& level_;
  float* const centered_;                // (rows, beams, stride): z
  float least_[kBeamRows * kMostBeams];  // (rows, beams): at most ‖z‖²
  float most_[kBeamRows * kMostBeams];   // (rows, beams): at least ‖z‖²
};

}  // namespace
}  // namespace km::KM_TARGET
