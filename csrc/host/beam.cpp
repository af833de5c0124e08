#include "host/beam.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Runs work(level) for every level, on as many threads as the levels have work for.
template <typename Work>
void in_levels(int64_t levels, int64_t k, int64_t d, int threads, const Work& work) {
  in_shares(levels, n_shares(levels, k * d, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t level = begin; level < end; ++level) work(level);
  });
}

// The error of a score, relative to the squared norms of both: of products and their sums, of the
// norms, of differences from the origin; and that of the distance that decides.
float margin_of(int64_t d) {
  constexpr float kUnit = 0x1p-24f;
  const float features = static_cast<float>(d);
  const float products = std::min(features, 128.0f) + features / 128;
  const float squares = std::min(features, 1024.0f) / 16 + features / 1024;
  return kUnit * (1.05f * products + 4 * squares + 64);
}

template <typename T>
class Codebooks {
 public:
  // codebooks (levels, k, d).
  Codebooks(Beams<T>& beam, const T* codebooks, int threads) : b_(beam), centroids_(codebooks) {
    b_.stride = b_.d <= kFewFeatures ? b_.d : (b_.d + 15) / 16 * 16;
    if (b_.stride != b_.d) fill_up(threads);
    b_.codebooks = centroids_;
    if (b_.d <= kFewFeatures)
      pack_blocks();
    else
      pack_panels(threads);
  }

 private:
  const T* centroid(int64_t level, int64_t c) const {
    return centroids_ + (level * b_.k + c) * b_.stride;
  }

  void fill_up(int threads) {
    const T* const from = centroids_;
    wide_ = aligned<T>(size_t(b_.levels * b_.k * b_.stride));
    in_levels(b_.levels, b_.k, b_.d, threads, [&](int64_t level) {
      for (int64_t c = level * b_.k; c < (level + 1) * b_.k; ++c) {
        std::memcpy(wide_.get() + c * b_.stride, from + c * b_.d, size_t(b_.d) * sizeof(T));
        std::fill(wide_.get() + c * b_.stride + b_.d, wide_.get() + (c + 1) * b_.stride, T(0));
      }
    });
    centroids_ = wide_.get();
  }

  void pack_blocks() {
    const int64_t room = current_kernels().block_bytes / int64_t(sizeof(T));
    const int64_t blocks = (b_.k + room - 1) / room;
    blocks_ = aligned<T>(size_t(b_.levels * blocks * b_.d * room));
    std::fill_n(blocks_.get(), b_.levels * blocks * b_.d * room, T(0));
    for (int64_t level = 0; level < b_.levels; ++level)
      for (int64_t c = 0; c < b_.k; ++c)
        for (int64_t j = 0; j < b_.d; ++j)
          blocks_[((level * blocks + c / room) * b_.d + j) * room + c % room] =
              centroid(level, c)[j];
    b_.blocks = blocks_.get();
  }

  void pack_panels(int threads) {
    b_.margin = margin_of(b_.d);
    b_.margin_of_half = 4 * b_.margin / (1 - b_.margin);
    const int64_t panels = (b_.k + 15) / 16, size = (1 + b_.d) * 16;
    panels_ = aligned<float>(size_t(b_.levels * panels * size));
    origins_.resize(size_t(b_.levels));
    in_levels(b_.levels, b_.k, b_.d, threads, [&](int64_t level) {
      origins_[size_t(level)] = origin(level);
      const T* const zero = centroid(level, origins_[size_t(level)]);
      for (int64_t c = 0; c < panels * 16; ++c) {
        float* const column = panels_.get() + (level * panels + c / 16) * size + c % 16;
        const T* const numbers = centroid(level, std::min(c, b_.k - 1));
        for (int64_t j = 0; j < b_.d; ++j)
          column[(1 + j) * 16] = static_cast<float>(numbers[j] - zero[j]);
        const double squares = squared_distance(numbers, zero);
        const bool fits = squares < kTooLarge;
        column[0] = static_cast<float>(-0.5 * (1 - double(b_.margin)) * squares);
        if (fits && c < b_.k) continue;
        for (int64_t j = 0; j < b_.d; ++j) column[(1 + j) * 16] = 0;
        column[0] = std::numeric_limits<float>::infinity() * (c < b_.k ? 1.0f : -1.0f);
      }
    });
    b_.panels = panels_.get();
    b_.origins = origins_.data();
  }

  // The centroid nearest to the mean of a level: common parts do not cancel, nor do a few
  // centroids far away matter.
  int64_t origin(int64_t level) const {
    std::vector<double> mean(size_t(b_.stride));
    for (int64_t c = 0; c < b_.k; ++c)
      for (int64_t j = 0; j < b_.d; ++j) mean[size_t(j)] += double(centroid(level, c)[j]);
    for (double& value : mean) value /= double(b_.k);
    int64_t nearest = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < b_.k; ++c) {
      const double distance = squared_distance(centroid(level, c), mean.data());
      if (distance < least) least = distance, nearest = c;
    }
    return nearest;
  }

  // ‖a - b‖² in several sums, which the processor adds side by side.
  template <typename Other>
  double squared_distance(const T* a, const Other* b) const {
    constexpr int kSums = 8;
    double sums[kSums] = {}, all = 0;
    for (int64_t j = 0; j < b_.stride; j += kSums)
      for (int i = 0; i < kSums; ++i) {
        const double difference = double(a[j + i]) - double(b[j + i]);
        sums[i] += difference * difference;
      }
    for (double sum : sums) all += sum;
    return all;
  }

  Beams<T>& b_;
  const T* centroids_;
  std::unique_ptr<T[], Free> wide_, blocks_;
  std::unique_ptr<float[], Free> panels_;
  std::vector<int64_t> origins_;
};

}  // namespace

template <typename T>
void beam_search(Beams<T> b, const T* codebooks, int64_t n, int threads) {
  const Codebooks<T> ready(b, codebooks, threads);
  const double work = double(n) * double(b.levels * b.beam_size * b.k) * double(b.d);
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>({threads, n, static_cast<int64_t>(work / kWorkPerThread) + 1}));
  const size_t beams = size_t(kBeamRows * b.beam_size);
  const size_t numbers = beams * size_t(b.stride), codes = beams * size_t(b.levels);
  const auto vectors = for_each_part<T>(parts, 2 * numbers);
  const auto centered = for_each_part<float>(parts, numbers);
  const auto chosen = for_each_part<int32_t>(parts, 2 * codes);
  in_parallel(parts, [&](int64_t p) {
    T* const left = vectors[size_t(p)].get();
    int32_t* const codes_of = chosen[size_t(p)].get();
    current_kernel<T>().beam(
        b, n * p / parts, n * (p + 1) / parts,
        {left, left + numbers, centered[size_t(p)].get(), codes_of, codes_of + codes});
  });
}
template void beam_search<float>(Beams<float>, const float*, int64_t, int);
template void beam_search<double>(Beams<double>, const double*, int64_t, int);

}  // namespace km
