#include "host/unit_rows.h"

#include <algorithm>
#include <cstring>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

// Kernels load blocks of rows that are filled up to a multiple of 16 features, since the length of
// a row is a sum in lanes; the features that fill up are left out of the copy.
template <typename T>
void load(const km_rows& rows, T* to, int threads) {
  const int64_t stride = filled(rows.d), parts = n_parts(rows, 1, threads);
  const auto block = for_each_part<T>(parts, size_t(kBlock) * size_t(stride));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t count = std::min<int64_t>(kBlock, end - first);
      current_kernel<T>().load(rows, first, count, stride, block[size_t(p)].get());
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(to + (first + i) * rows.d, block[size_t(p)].get() + i * stride,
                    size_t(rows.d) * sizeof(T));
    }
  });
}

template void load(const km_rows&, float*, int);
template void load(const km_rows&, double*, int);

}  // namespace km
