// The functions that remember nothing: beams, neighbors, cumulative sums, copies, moments, files.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_dense.h"

namespace fuzz {

template <typename T>
void neighbors(Input& input, int64_t n, int64_t d) {
  const int64_t k = input.one_of<int64_t>({1, 2, 5, 33, 64, 90});
  const int64_t m = input.between(1, std::min<int64_t>(k, 64));
  const std::vector<T> x = numbers<T>(input, n * d), centroids = numbers<T>(input, k * d);
  std::vector<int64_t> labels(n * m);
  std::vector<T> distances(n * m);
  PROMISE(!km_neighbors(x.data(), sizeof(T) == 8, n, d, centroids.data(), k, m, labels.data(),
                        distances.data(), static_cast<int>(input.between(1, 3))));
  for (int64_t label : labels) PROMISE(label >= 0 && label < k);
  if (!tame(x.data(), n * d) || !tame(centroids.data(), k * d)) return;
  const int64_t every = n * k * d / kCheap + 1;
  for (int64_t i = 0; i < n; i += every) {
    std::vector<std::pair<T, int64_t>> expected(k);
    for (int64_t c = 0; c < k; ++c)
      expected[c] = {
          reference::distance(x.data() + i * d, centroids.data() + c * d, d, rounds_once), c};
    std::sort(expected.begin(), expected.end());
    for (int64_t j = 0; j < m; ++j) {
      PROMISE(distances[i * m + j] == expected[j].first);
      PROMISE(labels[i * m + j] == expected[j].second);
    }
  }
}

template <typename T>
void beams(Input& input, int64_t n, int64_t d) {
  const int64_t levels = input.between(1, 4), k = input.one_of<int64_t>({1, 2, 5, 33, 64});
  const int64_t beam_size = input.one_of<int64_t>({1, 1, 2, 5, 16, 64});
  const std::vector<T> x = numbers<T>(input, n * d);
  const std::vector<T> codebooks = numbers<T>(input, levels * k * d);
  std::vector<int64_t> codes(n * levels);
  std::vector<T> left(n * d);
  PROMISE(!km_beam_search(x.data(), sizeof(T) == 8, n, d, codebooks.data(), levels, k, beam_size,
                          codes.data(), left.data(), static_cast<int>(input.between(1, 3))));
  for (int64_t code : codes) PROMISE(code >= 0 && code < k);
  if (!tame(x.data(), n * d) || !tame(codebooks.data(), levels * k * d)) return;
  const int64_t every = n * levels * k * d / kCheap + 1;
  for (int64_t i = 0; i < n; i += every) {
    std::vector<T> rest(x.begin() + i * d, x.begin() + (i + 1) * d);
    for (int64_t level = 0; level < levels; ++level) {
      const T* const codebook = codebooks.data() + level * k * d;
      const int64_t code = codes[i * levels + level];
      if (beam_size == 1)
        PROMISE(code == reference::nearest(rest.data(), codebook, k, d, rounds_once).label);
      for (int64_t j = 0; j < d; ++j) rest[j] -= codebook[code * d + j];
    }
    for (int64_t j = 0; j < d; ++j) PROMISE(left[i * d + j] == rest[j]);
  }
}

// Cumulative sums over integers, one value after the other.
template <typename T>
void sums(Input& input) {
  const int64_t n = input.between(1, 3000), size = input.one_of<int64_t>({1, 7, 64, 256, 5000});
  const int exponent = static_cast<int>(input.between(0, 120)) - 60;
  const int bits = static_cast<int>(input.between(0, 51));  // 3,000 of 2^51 are below 2^63
  std::vector<T> values = numbers<T>(input, n);
  for (T& value : values) value = std::isnan(value) ? T(0) : std::fabs(value);
  std::vector<int64_t> integers(n), blocks((n + size - 1) / size), ends(n);
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double scaled = std::ldexp(double(values[i]), exponent), most = std::ldexp(1.0, bits);
    integers[i] = static_cast<int64_t>(std::nearbyint(std::min(scaled, most)));
    if (values[i] > 0) integers[i] = std::max<int64_t>(integers[i], 1);
    ends[i] = total += integers[i];
  }
  const int threads = static_cast<int>(input.between(1, 3));
  PROMISE(!km_block_sums(values.data(), sizeof(T) == 8, n, size, exponent, bits, blocks.data(),
                         threads));
  for (int64_t block = 0; block < static_cast<int64_t>(blocks.size()); ++block) {
    const int64_t before = block ? ends[block * size - 1] : 0;
    PROMISE(blocks[block] == ends[std::min(n, (block + 1) * size) - 1] - before);
  }
  constexpr int64_t kDraws = 20;
  double numbers[kDraws];
  int64_t targets[kDraws], positions[kDraws], drawn[kDraws];
  for (int64_t i = 0; i < kDraws; ++i) {
    numbers[i] = input.uniform();
    const auto target = static_cast<int64_t>(std::floor(numbers[i] * double(total)));
    targets[i] = std::max<int64_t>(std::min(target, total - 1), 0);
  }
  PROMISE(!km_draw(values.data(), sizeof(T) == 8, n, size, exponent, bits, numbers, kDraws, drawn,
                   threads));
  for (int64_t i = kDraws - 4; i < kDraws; ++i) targets[i] = total + input.below(1000);
  PROMISE(!km_search_sums(values.data(), sizeof(T) == 8, n, size, exponent, bits, blocks.data(),
                          targets, kDraws, positions));
  for (int64_t i = 0; i < kDraws; ++i) {
    // Beyond the total, and where all are 0: the end of the last that is not 0, or anywhere.
    auto end = std::upper_bound(ends.begin(), ends.end(), targets[i]);
    if (end == ends.end()) end = std::lower_bound(ends.begin(), ends.end(), total);
    PROMISE(positions[i] >= 0 && positions[i] < n);
    PROMISE(!total || positions[i] == end - ends.begin());
    PROMISE(i >= kDraws - 4 || drawn[i] == positions[i]);
  }
}

template <typename T>
void load(Input& input, int64_t n, int64_t d) {
  const Rows<T> rows(input, n, d);
  std::vector<T> loaded(n * d);
  PROMISE(!km_load(&rows.view, loaded.data(), static_cast<int>(input.between(1, 3))));
  if (tame(rows.plain.data(), n * d)) PROMISE(loaded == rows.unit);
}

template <typename T>
void spread(Input& input, int64_t n, int64_t d) {
  const Rows<T> rows(input, n, d);
  const std::vector<double> about = weights(input, d);
  const double* const center = input.coin() ? about.data() : nullptr;
  std::vector<double> low(d), high(d), sums(d);
  PROMISE(!km_spread(&rows.view, center, low.data(), high.data(), sums.data(),
                     static_cast<int>(input.between(1, 3))));
  if (!tame(rows.plain.data(), n * d)) return;
  for (int64_t j = 0; j < d; ++j) {
    double least = std::numeric_limits<double>::infinity(), most = -least, sum = 0, scale = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double value = rows.plain[i * d + j], apart = value - (center ? center[j] : 0);
      least = std::min(least, value), most = std::max(most, value);
      if (rows.view.weights && rows.view.weights[i] == 0) continue;
      sum += center ? apart * apart : apart;
      scale += center ? apart * apart : std::fabs(apart);
    }
    PROMISE(center || (low[j] == least && high[j] == most));  // of squares, sums alone
    PROMISE(close(sums[j], sum, 1e-9, scale));
  }
}

// A file that is cut short while it is mapped reads as zeros.
inline void guards(Input& input) {
  const int64_t page = sysconf(_SC_PAGESIZE), size = input.between(1, 3) * page;
  std::FILE* const file = std::tmpfile();
  if (!file || ftruncate(fileno(file), size)) return;
  void* const start = mmap(nullptr, size, PROT_READ, MAP_SHARED, fileno(file), 0);
  const int mapping = km_guard_mapping(start, size - input.between(0, 9));
  PROMISE(mapping >= 0 && !km_mapping_was_cut(mapping));
  const volatile char* const bytes = static_cast<const char*>(start);
  const bool cuts = input.coin() && !ftruncate(fileno(file), 0);
  PROMISE(bytes[input.below(size)] == 0);
  PROMISE(km_mapping_was_cut(mapping) == cuts);
  km_release_mapping(mapping);
  munmap(start, size);
  std::fclose(file);
}

}  // namespace fuzz
