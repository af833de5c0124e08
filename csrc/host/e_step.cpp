#include "host/e_step.h"

#include "host/box_tree.h"
#include "host/e_step_few.h"
#include "host/e_step_many.h"

namespace km {

namespace {

// By boxes where the rows could be sorted and no centroid is too large for boxes, else by brute
// force, whose labels are then those that boxes begin with. Returns the share of pairs visited.
template <typename T>
double e_step_of_few_features(const km_rows& rows, const T* centroids, int64_t k,
                              const Result<T>& result, BoxTree<T>* tree, int threads) {
  if (tree && BoxTree<T>::measures(centroids, k * rows.d))
    return e_step_by_boxes(*tree, rows, centroids, k, result, threads);
  e_step_by_brute_force(rows, centroids, k, result, threads);
  if (tree) tree->take_labels(result.labels);
  return 1;
}

}  // namespace

// Who runs when:
//   d <= kFewFeatures, a workspace that may sort   e_step_by_boxes        kernel/few/box_descent
//   d <= kFewFeatures                              e_step_by_brute_force  kernel/few/brute_force
//   d > kFewFeatures                               e_step_by_bounds       kernel/many
template <typename T>
void e_step(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
            km_workspace* workspace, int threads) {
  if (workspace) workspace->end_seeding();
  // Labels that are not warm are new memory, all of which is written now: a large page is found
  // once where small ones would be found 512 times.
  if (!result.warm) in_large_pages(result.labels, size_t(rows.n) * sizeof(int64_t));
  // Without a workspace nothing is kept: a passing one ends with the call.
  WorkspaceSettings settings;
  Workspace<T> passing(settings);
  Workspace<T>& memory = workspace ? workspace->of<T>() : passing;
  if (rows.d > kFewFeatures)
    return e_step_by_bounds(rows, centroids, k, result, memory, workspace != nullptr, threads);
  memory.settings.share_visited =
      e_step_of_few_features(rows, centroids, k, result, memory.tree(rows, threads), threads);
}

template void e_step(const km_rows&, const float*, int64_t, const Result<float>&, km_workspace*,
                     int);
template void e_step(const km_rows&, const double*, int64_t, const Result<double>&, km_workspace*,
                     int);

}  // namespace km
