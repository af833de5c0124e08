#include "host/workspace.h"

#include "host/box_tree.h"
#include "host/seeding.h"

namespace km {

template <typename T>
Workspace<T>::Workspace(WorkspaceSettings& common) : settings(common) {}
template <typename T>
Workspace<T>::~Workspace() = default;  // here, where BoxTree and Seeding are whole types

// Sorting is tried once: rows never change, so that what made it impossible stays.
template <typename T>
BoxTree<T>* Workspace<T>::tree(const km_rows& rows, int threads) {
  if (!settings.sort || rows.d > kSortedFeatures) return nullptr;
  if (!tree_) tree_ = BoxTree<T>::of(rows, threads);
  return tree_->get();
}

template <typename T>
Seeding<T>& Workspace<T>::seeding() {
  if (!seeding_) {
    search.release_rows();
    seeding_ = std::make_unique<Seeding<T>>(settings.directions, settings.keep);
  }
  return *seeding_;
}

template <typename T>
void Workspace<T>::end_seeding() {
  seeding_.reset();
  if (!tree_ || !*tree_) return;
  (*tree_)->end_seeding();
  // Above kFewFeatures a tree has no moments: it serves seeding only, which may come again.
  if (!(*tree_)->view().labels.moments) tree_.reset();
}

template <typename T>
void Workspace<T>::forget_coordinates() {
  search.forget_coordinates();
  seeding_.reset();  // its coordinates are along the old directions too
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace km

// The workspace of the other type has no rows, but forgets what it may have.
void km_workspace::project(const float* basis, const float* center, int64_t p, int64_t d) {
  of_float.forget_coordinates();
  of_double.forget_coordinates();
  settings.directions = km::directions_of(basis, center, p, d);
}

void km_workspace::end_seeding() {
  of_float.end_seeding();
  of_double.end_seeding();
}
