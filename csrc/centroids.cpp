// The centroids made ready: in places, with their coordinates and how far they are apart.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "parts.h"
#include "workspace.h"

// Neighbours next to each other: halves along the widest axis, down to a group.
void km_workspace::arrange(const std::vector<float>& coordinates, int64_t axes, int32_t* begin,
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
void km_workspace::pack(const km_kernel& kernel, const T* centroids, int threads, km_search& s) {
  const std::vector<T> rows = filled_up(centroids, s.k, s.d);
  auto coordinates = aligned<int32_t>(size_t(s.k * s.pitch));
  auto norms = aligned<float>(size_t(s.k));
  const int64_t shares = n_shares(s.k, s.d, threads);
  const auto centered = blocks(shares, size_t(kBlock * s.stride) * sizeof(float));
  const auto along =
      blocks(shares, size_t(kMostRowsTogether * (s.directions + 1)) * sizeof(float));
  in_shares(s.k, shares, [&](int64_t p, int64_t begin, int64_t end) {
    km_scratch scratch = {};
    scratch.centered = reinterpret_cast<float*>(centered[size_t(p)].get());
    scratch.along = reinterpret_cast<float*>(along[size_t(p)].get());
    for (int64_t first = begin; first < end; first += kBlock)
      kernel.measure(s, sizeof(T) == 8, rows.data() + first * s.stride,
                     static_cast<int>(std::min<int64_t>(kBlock, end - first)), scratch,
                     coordinates.get() + first * s.pitch, norms.get() + first);
  });
  if (!std::all_of(norms.get(), norms.get() + s.k, [](float n) { return n < kTooLargeNorm; })) {
    s.places = 0;  // bounds could overflow
    return;
  }
  auto unit = [&](int64_t c) { return std::sqrt(std::max(norms[c], kLeastNorm)) * (1 / kWhole); };
  if (!arranged_) {
    std::iota(index_.begin(), index_.end(), 0);
    if (s.bounds && together_ > 1) {
      const int64_t axes = std::min<int64_t>(2 * s.width, 64);
      std::vector<float> leading(size_t(s.k * axes));
      for (int64_t i = 0; i < s.k * axes; ++i) {
        const int32_t pair = coordinates[i / axes * s.pitch + i % axes / 2];
        leading[i] = float(i % 2 ? pair >> 16 : int16_t(pair)) * unit(i / axes);
      }
      arrange(leading, axes, index_.data(), index_.data() + s.k);
    }
    for (int64_t c = 0; c < s.k; ++c) position_[index_[c]] = static_cast<int32_t>(c);
    arranged_ = s.bounds != nullptr;
  }
  centroids_ = aligned<char>(size_t(s.places * s.stride) * sizeof(T));
  placed_ = aligned<int32_t>(size_t(s.places * s.pitch));
  units_ = aligned<float>(size_t(s.places));
  offsets_ = aligned<float>(size_t(s.places));
  T* placed = reinterpret_cast<T*>(centroids_.get());
  for (int64_t place = 0; place < s.places; ++place) {
    int32_t* z = placed_.get() + place * s.pitch;
    if (place >= s.k) {
      std::fill_n(z, s.pitch, 0);
      units_[place] = 0;
      offsets_[place] = -std::numeric_limits<float>::infinity();
      continue;
    }
    const int64_t c = index_[place];
    std::copy_n(rows.data() + c * s.stride, s.stride, placed + place * s.stride);
    std::copy_n(coordinates.get() + c * s.pitch, s.pitch, z);
    units_[place] = unit(c);
    offsets_[place] = -0.5f * norms[c] * (1 - s.margin);
  }
  s.centroids = centroids_.get();
  s.coordinates_of_centroids = placed_.get();
  s.units = units_.get();
  s.offsets = offsets_.get();
}

// Says how far the centroids are from each other, where that can pay.
void km_workspace::separate(const km_kernel& kernel, const km_rows& rows, int threads,
                            km_search& s) {
  if (pause_of_apart_ > 0 || s.k > rows.n / 16) return;
  const bool between = between_pays_ && !s.directions && !s.bounds &&
                       s.k * s.places * int64_t(sizeof(float)) <= kBoundsOfThread * threads;
  apart_ = aligned<float>(size_t(s.places));
  s.blocks = filled(s.places / kPlaces);
  if (between) {
    between_ = aligned<float>(size_t(s.k * s.places));
    closest_ = aligned<float>(size_t(s.k * s.blocks));
    std::fill_n(closest_.get(), s.k * s.blocks, std::numeric_limits<float>::infinity());
  }
  const int64_t blocks = (s.places + kBlock - 1) / kBlock;
  const int64_t parts = std::min<int64_t>(threads, blocks);
  const size_t numbers = size_t(s.pitch) * kMostRowsInLanes;
  auto columns = aligned<int32_t>(size_t(parts) * numbers);
  in_parallel(parts, [&](int64_t p) {
    kernel.separate(s, blocks * p / parts * kBlock,
                    std::min(s.places, blocks * (p + 1) / parts * kBlock), apart_.get(),
                    between ? between_.get() : nullptr, between ? closest_.get() : nullptr,
                    columns.get() + size_t(p) * numbers);
  });
  s.apart = apart_.get();
  s.between = between ? between_.get() : nullptr;
  s.closest = between ? closest_.get() : nullptr;
}

template void km_workspace::pack<float>(const km_kernel&, const float*, int, km_search&);
template void km_workspace::pack<double>(const km_kernel&, const double*, int, km_search&);
