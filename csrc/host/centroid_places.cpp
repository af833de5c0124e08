// The centroids made ready: in places, with their coordinates and how far they are apart.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "host/dispatch.h"
#include "host/split.h"
#include "host/workspace.h"

namespace km {

// Neighbours next to each other: halves along the widest axis, down to a group.
template <typename T>
void Workspace<T>::arrange(const std::vector<float>& coordinates, int64_t axes, int32_t* begin,
                           int32_t* end) {
  const int64_t count = end - begin;
  if (count <= together_) return;
  int64_t widest = 0;
  double most = -1;
  for (int64_t j = 0; j < axes; ++j) {
    double sum = 0, squares = 0;
    for (const int32_t* c = begin; c < end; ++c) {
      const double value = coordinates[*c * axes + j];
      sum += value;
      squares += value * value;
    }
    const double variance = squares - sum * sum / double(count);
    if (variance > most) {
      most = variance;
      widest = j;
    }
  }
  int32_t* middle = begin + ((count + together_ - 1) / together_ + 1) / 2 * together_;
  std::nth_element(begin, middle, end, [&](int32_t a, int32_t b) {
    const float x = coordinates[a * axes + widest], y = coordinates[b * axes + widest];
    return x < y || (x == y && a < b);
  });
  arrange(coordinates, axes, begin, middle);
  arrange(coordinates, axes, middle, end);
}

// Puts the centroids and their coordinates into places.
template <typename T>
void Workspace<T>::pack(const T* centroids, int threads, Search<T>& s) {
  const Kernel<T>& kernel = current_kernel<T>();
  const std::vector<T> rows = filled_up(centroids, s.places.k, s.places.d);
  auto coordinates = aligned<int32_t>(size_t(s.places.k * s.coordinates.pitch));
  auto norms = aligned<float>(size_t(s.places.k));
  const int64_t shares = n_shares(s.places.k, s.places.d, threads);
  const auto centered = for_each_part<float>(shares, size_t(kBlock * s.places.stride));
  const auto along =
      for_each_part<float>(shares, size_t(kMostRowsTogether * (s.coordinates.directions + 1)));
  in_shares(s.places.k, shares, [&](int64_t p, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock)
      kernel.measure(s.coordinates, rows.data() + first * s.places.stride, s.places.d,
                     s.places.stride, static_cast<int>(std::min<int64_t>(kBlock, end - first)),
                     centered[size_t(p)].get(), along[size_t(p)].get(),
                     coordinates.get() + first * s.coordinates.pitch, norms.get() + first);
  });
  if (!std::all_of(norms.get(), norms.get() + s.places.k, [](float n) { return n < kTooLarge; })) {
    s.places.count = 0;  // bounds could overflow
    return;
  }
  auto unit = [&](int64_t c) { return std::sqrt(std::max(norms[c], kLeastNorm)) * (1 / kWhole); };
  if (!arranged_) {
    std::iota(index_.begin(), index_.end(), 0);
    if (s.bounds.steps && together_ > 1) {
      const int64_t axes = std::min<int64_t>(2 * s.coordinates.width, 64);
      std::vector<float> leading(size_t(s.places.k * axes));
      for (int64_t i = 0; i < s.places.k * axes; ++i) {
        const int32_t pair = coordinates[i / axes * s.coordinates.pitch + i % axes / 2];
        leading[i] = float(i % 2 ? pair >> 16 : int16_t(pair)) * unit(i / axes);
      }
      arrange(leading, axes, index_.data(), index_.data() + s.places.k);
    }
    for (int64_t c = 0; c < s.places.k; ++c) position_[index_[c]] = static_cast<int32_t>(c);
    arranged_ = s.bounds.steps != nullptr;
  }
  centroids_ = aligned<T>(size_t(s.places.count * s.places.stride));
  placed_ = aligned<int32_t>(size_t(s.places.count * s.coordinates.pitch));
  units_ = aligned<float>(size_t(s.places.count));
  offsets_ = aligned<float>(size_t(s.places.count));
  T* const placed = centroids_.get();
  for (int64_t place = 0; place < s.places.count; ++place) {
    int32_t* z = placed_.get() + place * s.coordinates.pitch;
    if (place >= s.places.k) {
      std::fill_n(z, s.coordinates.pitch, 0);
      units_[place] = 0;
      offsets_[place] = -std::numeric_limits<float>::infinity();
      continue;
    }
    const int64_t c = index_[place];
    std::copy_n(rows.data() + c * s.places.stride, s.places.stride,
                placed + place * s.places.stride);
    std::copy_n(coordinates.get() + c * s.coordinates.pitch, s.coordinates.pitch, z);
    units_[place] = unit(c);
    offsets_[place] = -0.5f * norms[c] * (1 - s.coordinates.margin);
  }
  s.places.centroids = centroids_.get();
  s.coordinates.of_centroids = placed_.get();
  s.coordinates.units = units_.get();
  s.coordinates.offsets = offsets_.get();
}

// Says how far the centroids are from each other, where that can pay.
template <typename T>
void Workspace<T>::separate(const km_rows& rows, int threads, Search<T>& s) {
  if (pause_of_apart_ > 0 || s.places.k > rows.n / 16) return;
  const bool between =
      between_pays_ && !s.coordinates.directions && !s.bounds.steps &&
      s.places.k * s.places.count * int64_t(sizeof(float)) <= kBoundsOfThread * threads;
  apart_ = aligned<float>(size_t(s.places.count));
  s.gaps.blocks = filled(s.places.count / kPlaces);
  if (between) {
    between_ = aligned<float>(size_t(s.places.k * s.places.count));
    closest_ = aligned<float>(size_t(s.places.k * s.gaps.blocks));
    std::fill_n(closest_.get(), s.places.k * s.gaps.blocks, std::numeric_limits<float>::infinity());
  }
  const int64_t blocks = (s.places.count + kBlock - 1) / kBlock;
  const int64_t parts = std::min<int64_t>(threads, blocks);
  const size_t numbers = size_t(s.coordinates.pitch) * kMostRowsInLanes;
  auto columns = aligned<int32_t>(size_t(parts) * numbers);
  in_parallel(parts, [&](int64_t p) {
    current_kernels().separate(
        s.coordinates, s.places.k, s.places.count, s.gaps.blocks, blocks * p / parts * kBlock,
        std::min(s.places.count, blocks * (p + 1) / parts * kBlock), apart_.get(),
        between ? between_.get() : nullptr, between ? closest_.get() : nullptr,
        columns.get() + size_t(p) * numbers);
  });
  s.gaps.nearest = apart_.get();
  s.gaps.pairwise = between ? between_.get() : nullptr;
  s.gaps.of_sixteen = between ? closest_.get() : nullptr;
}

template void Workspace<float>::pack(const float*, int, Search<float>&);
template void Workspace<double>::pack(const double*, int, Search<double>&);
template void Workspace<float>::separate(const km_rows&, int, Search<float>&);
template void Workspace<double>::separate(const km_rows&, int, Search<double>&);

}  // namespace km
