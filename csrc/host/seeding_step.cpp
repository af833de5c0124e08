#include "host/seeding_step.h"

#include "host/box_tree.h"
#include "host/seeding.h"

namespace km {

// Rows that are sorted into boxes are measured box by box, unless a number is too large for these:
// a box whose farthest row is nearer to a center so far than the box is to a candidate stays as it
// is. Before the first center there is no potential, and the tree says so.
template <typename T>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                bool unchanged, double* result, Workspace<T>& workspace, int threads) {
  BoxTree<T>* const tree = workspace.tree(rows, threads);
  if (tree && BoxTree<T>::measures(candidates, m * rows.d) &&
      tree->potentials(nearest, candidates, m, unchanged, result, threads))
    return;
  workspace.seeding().potentials(rows, nearest, candidates, m, result, threads);
}

template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
           Workspace<T>& workspace, int threads) {
  BoxTree<T>* const tree = workspace.tree(rows, threads);
  if (tree && BoxTree<T>::measures(center, rows.d))
    return tree->lower(nearest, center, unchanged, threads);
  workspace.seeding().lower(rows, nearest, center, unchanged, threads);
}

template void potentials(const km_rows&, const float*, const float*, int64_t, bool, double*,
                         Workspace<float>&, int);
template void lower(const km_rows&, float*, const float*, bool, Workspace<float>&, int);
template void potentials(const km_rows&, const double*, const double*, int64_t, bool, double*,
                         Workspace<double>&, int);
template void lower(const km_rows&, double*, const double*, bool, Workspace<double>&, int);

}  // namespace km
