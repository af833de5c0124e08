// Centroids made ready for an E-step of sparse rows: norms, and a transpose. A header alone, which
// host/sparse_e_step.cpp includes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"
#include "kernel/sparse/search.h"

namespace km {

// Makes SparsePlaces of centroids (k, d), and owns the memory of what it has made. A call makes
// them anew: it reads each centroid three times, a search each once for every row.
template <typename T>
class SparseCentroids {
 public:
  // centroids are contiguous; they are read where they are if nothing has to be filled up, so they
  // have to outlive this.
  SparseCentroids(const T* centroids, int64_t k, int64_t d, int threads)
      : centroids_(centroids),
        k_(k),
        d_(d),
        stride_(d > kFewFeatures ? filled(d) : d),
        count_(filled(k)),
        shares_(n_shares(k, d, threads)) {
    measure();
    transpose();
  }

  // Valid while this lives.
  SparsePlaces<T> places() const {
    return {k_,
            d_,
            stride_,
            count_,
            columns_.get(),
            halves_.data(),
            norms_.data(),
            squares_.data(),
            stride_ == d_ ? centroids_ : filled_up_.get()};
  }

 private:
  // Norms of all centroids, and copies filled up by zeros where they are needed.
  void measure() {
    // Places beyond k: an infinite score, which no row is near to.
    halves_.assign(size_t(count_), std::numeric_limits<T>::infinity());
    norms_.assign(size_t(count_), T(0));
    squares_.resize(size_t(k_));
    if (stride_ != d_) filled_up_ = aligned<T>(size_t(k_ * stride_));
    in_shares(k_, shares_, [&](int64_t, int64_t begin, int64_t end) {
      current_kernel<T>().squares_of(centroids_ + begin * d_, end - begin, d_,
                                     squares_.data() + begin);
      for (int64_t c = begin; c < end; ++c) {
        // Rounded once, from double: the screen counts on it.
        halves_[size_t(c)] = static_cast<T>(squares_[size_t(c)] / 2);
        norms_[size_t(c)] = static_cast<T>(std::sqrt(squares_[size_t(c)]));
        if (stride_ == d_) continue;
        T* const copy = filled_up_.get() + c * stride_;
        std::memcpy(copy, centroids_ + c * d_, size_t(d_) * sizeof(T));
        std::fill_n(copy + d_, stride_ - d_, T(0));
      }
    });
  }

  // columns_, by blocks of 16 features: of each centroid a cache line is read at a time.
  void transpose() {
    columns_ = aligned<T>(size_t(d_ * count_));
    constexpr int64_t kTogether = 16;
    const int64_t blocks = (d_ + kTogether - 1) / kTogether;
    in_shares(blocks, std::min(blocks, shares_), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t first = begin * kTogether; first < std::min(d_, end * kTogether);
           first += kTogether) {
        const int64_t last = std::min(d_, first + kTogether);
        for (int64_t c = 0; c < count_; ++c)
          for (int64_t j = first; j < last; ++j)
            columns_[size_t(j * count_ + c)] = c < k_ ? centroids_[c * d_ + j] : T(0);
      }
    });
  }

  const T* const centroids_;  // (k, d)
  const int64_t k_, d_;       // as in SparsePlaces, and so are stride_ and count_
  const int64_t stride_, count_;
  const int64_t shares_;           // threads that share the centroids
  Array<T> columns_;               // (d, count)
  Array<T> filled_up_;             // (k, stride), or null where stride is d
  std::vector<T> halves_, norms_;  // (count)
  std::vector<double> squares_;    // (k)
};

}  // namespace km
