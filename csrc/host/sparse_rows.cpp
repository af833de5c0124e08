#include "host/sparse_rows.h"

#include "host/dispatch.h"

namespace km {

// Rows do not depend on each other: any split gives the same bits.
template <typename T>
void sparse_unit(const km_sparse& rows, T* values, int threads) {
  SparseParts(rows, 1, threads).each([&](int64_t, int64_t begin, int64_t end) {
    current_kernel<T>().unit_sparse(rows, begin, end, values);
  });
}
template void sparse_unit(const km_sparse&, float*, int);
template void sparse_unit(const km_sparse&, double*, int);

}  // namespace km
