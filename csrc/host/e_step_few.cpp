#include "host/e_step_few.h"

#include <numeric>
#include <vector>

#include "host/candidate_memory.h"
#include "host/dispatch.h"
#include "host/memory.h"
#include "host/part_results.h"
#include "host/split.h"
#include "host/sums_of_parts.h"

namespace km {

// Each part takes consecutive rows, and adds them to sums in as many copies as fit in a cache:
// consecutive rows add to different copies, so that no addition waits for the one before.
template <typename T>
void e_step_by_brute_force(const km_rows& rows, const T* centroids, int64_t k,
                           const Result<T>& result, int threads) {
  const int64_t parts = n_parts(rows, k, threads);
  // A block of rows is copied, and then written feature by feature: twice its size.
  const size_t block_size = 2 * size_t(current_kernels().block_bytes) / sizeof(T);
  const auto block = for_each_part<T>(parts, block_size * size_t(rows.d));
  const SumsOfParts sums(parts, k, rows.d);
  PartResults<T> results(result, parts, k, rows.d);
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    current_kernel<T>().scan(rows, centroids, begin, end, results.of_part(p),
                             block[size_t(p)].get(), sums.of_part(p));
  });
  results.add_up();
}

// Parts take the uppermost boxes in turn: neighboring boxes take about the same time, so that parts
// get about as much work each. Without warm labels the tree forgets the labels of its rows, since
// `changed` counts against them.
template <typename T>
double e_step_by_boxes(BoxTree<T>& tree, const km_rows& rows, const T* centroids, int64_t k,
                       const Result<T>& result, int threads) {
  if (!result.warm) tree.take_labels(nullptr);
  const Boxes<T>& boxes = tree.view();
  const int64_t parts = n_parts(rows, k, threads);
  const SumsOfParts sums(parts, k, rows.d);
  const CandidateMemory<T> lists(boxes, centroids, k, parts);
  std::vector<int64_t> pairs(static_cast<size_t>(parts));
  PartResults<T> results(result, parts, k, rows.d);
  in_parallel(parts, [&](int64_t p) {
    pairs[size_t(p)] = current_kernel<T>().descend(boxes, lists.of_part(p), p, parts,
                                                   results.of_part(p), sums.of_part(p));
  });
  results.add_up();
  return double(std::accumulate(pairs.begin(), pairs.end(), int64_t{0})) / double(k * rows.n);
}

template void e_step_by_brute_force(const km_rows&, const float*, int64_t, const Result<float>&,
                                    int);
template void e_step_by_brute_force(const km_rows&, const double*, int64_t, const Result<double>&,
                                    int);
template double e_step_by_boxes(BoxTree<float>&, const km_rows&, const float*, int64_t,
                                const Result<float>&, int);
template double e_step_by_boxes(BoxTree<double>&, const km_rows&, const double*, int64_t,
                                const Result<double>&, int);

}  // namespace km
