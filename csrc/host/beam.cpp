#include "host/beam.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Calls work(level) for every level, on as many threads as the levels have work for.
template <typename Work>
void in_levels(const BeamSizes& sizes, int threads, const Work& work) {
  const int64_t shares = n_shares(sizes.levels, sizes.k * sizes.d, threads);
  in_shares(sizes.levels, shares, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t level = begin; level < end; ++level) work(level);
  });
}

// The error of ‖z‖² - 2 score against the deciding distance, relative to ‖z‖² + ‖w‖² (names of
// screen-inl.h), in units u = 2^-24 of one rounding. A sum of n products is off by n u Σ |terms| at
// most (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and
// 2 ‖z‖‖w‖ <= ‖z‖² + ‖w‖², ‖z - w‖² <= 2 (‖z‖² + ‖w‖²):
//   products   2 z·w, added up by parts of 128 and then the parts; 5 % for products of roundings
//   norm       ‖z‖², d / 16 squares in a lane
//   deciding   Σ (v - c)², d / 16 squares in a lane by parts of 1,024: twice, as ‖z - w‖² counts;
//              a third time for slack
//   64         lanes by halves, differences from the origin (twice 2 u of each square), the squares
//              themselves, halves, the margin's own products, the score joining ‖z‖²
float margin_of(int64_t d) {
  constexpr float kUnit = 0x1p-24f;
  constexpr float kPart = kProductsInPart, kSumPart = KM_FEATURES_IN_PART;
  const float features = static_cast<float>(d);
  const float products = std::min(features, kPart) + features / kPart;
  const float norm = features / kLanes;
  const float deciding = std::min(features, kSumPart) / kLanes + features / kSumPart;
  return kUnit * (1.05f * products + norm + 3 * deciding + 64);
}

// ‖a - b‖² of a multiple of 8 numbers, count, in several sums that the processor adds side by side.
template <typename T, typename Other>
double squared_distance(const T* a, const Other* b, int64_t count) {
  constexpr int kSums = 8;
  double sums[kSums] = {}, all = 0;
  for (int64_t j = 0; j < count; j += kSums)
    for (int i = 0; i < kSums; ++i) {
      const double difference = double(a[j + i]) - double(b[j + i]);
      sums[i] += difference * difference;
    }
  for (double sum : sums) all += sum;
  return all;
}

// Makes codebooks ready, and owns the memory of what it has made.
template <typename T>
class CodebookMaker {
 public:
  // codebooks (levels, k, d), contiguous; they are read where they are if nothing has to be filled
  // up.
  CodebookMaker(const BeamSizes& sizes, const T* codebooks, int threads) : sizes_(sizes) {
    const bool few = sizes.d <= kFewFeatures;
    made_.stride = few ? sizes.d : filled(sizes.d);
    made_.centroids = codebooks;
    if (made_.stride != sizes.d) fill_up(codebooks, threads);
    if (few)
      pack_blocks();
    else
      pack_panels(threads);
  }

  // Valid while the maker lives.
  const Codebooks<T>& made() const { return made_; }

 private:
  // Centroid c of a level: (stride).
  const T* centroid(int64_t level, int64_t c) const {
    return made_.centroids + (level * sizes_.k + c) * made_.stride;
  }

  // Copies centroids to (levels, k, stride), filled up by zeros.
  void fill_up(const T* codebooks, int threads) {
    const int64_t d = sizes_.d, stride = made_.stride;
    filled_up_ = aligned<T>(size_t(sizes_.levels * sizes_.k * stride));
    in_levels(sizes_, threads, [&](int64_t level) {
      for (int64_t c = level * sizes_.k; c < (level + 1) * sizes_.k; ++c) {
        std::memcpy(filled_up_.get() + c * stride, codebooks + c * d, size_t(d) * sizeof(T));
        std::fill(filled_up_.get() + c * stride + d, filled_up_.get() + (c + 1) * stride, T(0));
      }
    });
    made_.centroids = filled_up_.get();
  }

  // Transposes centroids into blocks, filled up by zeros: see Codebooks::blocks.
  void pack_blocks() {
    const int64_t d = sizes_.d, room = current_kernels().block_bytes / int64_t(sizeof(T));
    const int64_t blocks = (sizes_.k + room - 1) / room;
    blocks_ = aligned<T>(size_t(sizes_.levels * blocks * d * room));
    std::fill_n(blocks_.get(), sizes_.levels * blocks * d * room, T(0));
    for (int64_t level = 0; level < sizes_.levels; ++level)
      for (int64_t c = 0; c < sizes_.k; ++c)
        for (int64_t j = 0; j < d; ++j)
          blocks_[((level * blocks + c / room) * d + j) * room + c % room] = centroid(level, c)[j];
    made_.blocks = blocks_.get();
  }

  // Finds the origins, and packs the panels: see Codebooks::panels. Memory is taken before threads
  // start, which could not hand over that there is none.
  void pack_panels(int threads) {
    const int64_t panels = (sizes_.k + kLanes - 1) / kLanes;
    const int64_t panel_size = (1 + sizes_.d) * kLanes;
    made_.margin = margin_of(sizes_.d);
    made_.margin_of_half = 4 * made_.margin / (1 - made_.margin);
    panels_ = aligned<float>(size_t(sizes_.levels * panels * panel_size));
    origins_.resize(size_t(sizes_.levels));
    std::vector<double> means(size_t(sizes_.levels * made_.stride));
    in_levels(sizes_, threads, [&](int64_t level) {
      origins_[size_t(level)] = origin(level, means.data() + level * made_.stride);
      for (int64_t c = 0; c < panels * kLanes; ++c)
        pack_column(level, c,
                    panels_.get() + (level * panels + c / kLanes) * panel_size + c % kLanes);
    });
    made_.panels = panels_.get();
    made_.origins = origins_.data();
  }

  // Writes the column of centroid c, which may be beyond k - 1, to column[0], column[16], ..: the
  // half norm, and d numbers. Norms are summed in double, and rounded once.
  void pack_column(int64_t level, int64_t c, float* column) const {
    const T* const o = centroid(level, origins_[size_t(level)]);
    const T* const numbers = centroid(level, std::min(c, sizes_.k - 1));
    const double squares = squared_distance(numbers, o, made_.stride);
    const bool exists = c < sizes_.k, scored = exists && squares < kTooLarge;
    for (int64_t j = 0; j < sizes_.d; ++j)
      column[(1 + j) * kLanes] = scored ? static_cast<float>(numbers[j] - o[j]) : 0;
    if (scored)
      column[0] = static_cast<float>(-0.5 * (1 - double(made_.margin)) * squares);
    else
      column[0] = std::numeric_limits<float>::infinity() * (exists ? 1.0f : -1.0f);
  }

  // The origin of a level: the centroid nearest to the mean of all. The parts that v and c have in
  // common do not cancel in scores then; a mean itself could be far from all centroids, where a few
  // are far away. mean (stride), zeros, is memory for it.
  int64_t origin(int64_t level, double* mean) const {
    for (int64_t c = 0; c < sizes_.k; ++c)
      for (int64_t j = 0; j < sizes_.d; ++j) mean[j] += double(centroid(level, c)[j]);
    for (int64_t j = 0; j < sizes_.d; ++j) mean[j] /= double(sizes_.k);
    int64_t nearest = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < sizes_.k; ++c) {
      const double distance = squared_distance(centroid(level, c), mean, made_.stride);
      if (distance < least) least = distance, nearest = c;
    }
    return nearest;
  }

  const BeamSizes& sizes_;
  Codebooks<T> made_ = {};
  Array<T> filled_up_;            // (levels, k, stride), or null
  Array<T> blocks_;               // Codebooks::blocks, or null
  Array<float> panels_;           // Codebooks::panels, or null
  std::vector<int64_t> origins_;  // (levels), or empty
};

}  // namespace

template <typename T>
void beam_search(const BeamSizes& sizes, const T* x, const T* codebooks,
                 const BeamResult<T>& result, int threads) {
  const CodebookMaker<T> maker(sizes, codebooks, threads);
  const Beams<T> search = {sizes, x, maker.made(), result};
  const double work =
      double(sizes.n) * double(sizes.levels * sizes.beam_size * sizes.k) * double(sizes.d);
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>({threads, sizes.n, static_cast<int64_t>(work / kWorkPerThread) + 1}));
  const size_t beams = size_t(kBeamRows * sizes.beam_size);
  const size_t numbers = beams * size_t(search.codebooks.stride);
  const size_t codes = beams * size_t(sizes.levels);
  const auto vectors_of = for_each_part<T>(parts, 2 * numbers);
  const auto centered_of = for_each_part<float>(parts, numbers);
  const auto codes_of = for_each_part<int32_t>(parts, 2 * codes);
  in_parallel(parts, [&](int64_t p) {
    T* const vectors = vectors_of[size_t(p)].get();
    int32_t* const codes_now = codes_of[size_t(p)].get();
    current_kernel<T>().beam(
        search, sizes.n * p / parts, sizes.n * (p + 1) / parts,
        {vectors, vectors + numbers, centered_of[size_t(p)].get(), codes_now, codes_now + codes});
  });
}
template void beam_search(const BeamSizes&, const float*, const float*, const BeamResult<float>&,
                          int);
template void beam_search(const BeamSizes&, const double*, const double*, const BeamResult<double>&,
                          int);

}  // namespace km
