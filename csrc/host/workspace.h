// What the calls on one set of rows leave for each other. It makes calls faster and changes no
// result.
//
//   km_workspace -> Workspace<T> -> SearchMaker<T> -> Policy, the makers of the structs of
//   Search<T>
//                                -> ExactSums<T>      sums of clusters of many features
//                                -> BoxTree<T>        rows of few features
//                                -> Seeding<T>     -> the makers of places and coordinates
#pragma once

#include <memory>
#include <optional>

#include "abi/native.h"
#include "host/exact_sums.h"
#include "host/search_maker.h"

namespace km {

template <typename T>
class BoxTree;
template <typename T>
class Seeding;

// What the workspaces of both types have in common.
struct WorkspaceSettings {
  bool keep = false;         // coordinates of the rows may be kept in memory
  bool sort = false;         // rows of up to kSortedFeatures may be, sorted into boxes
  Directions directions;     // along which rows are measured; none: all features
  double share_visited = 1;  // of the pairs of a row and a centroid, by the last E-step: 0 to 1
};

template <typename T>
class Workspace {
 public:
  explicit Workspace(WorkspaceSettings& common);
  ~Workspace();

  // The rows sorted into boxes by the first call; null where that may not be, or there are too many
  // features, or their squares could overflow.
  BoxTree<T>* tree(const km_rows& rows, int threads);

  // What seeding keeps, made by the first call. Coordinates and lower bounds of the E-step are
  // given back, and begin anew after seeding.
  Seeding<T>& seeding();
  // An E-step begins: what seeding kept is given back.
  void end_seeding();
  // The directions have changed: coordinates along the old ones are void.
  void forget_coordinates();

  WorkspaceSettings& settings;
  SearchMaker<T> search;
  ExactSums<T> totals;

 private:
  std::unique_ptr<Seeding<T>> seeding_;
  std::optional<std::unique_ptr<BoxTree<T>>> tree_;  // no value: not tried yet; null: impossible
};

}  // namespace km

// The workspace of native.h: one of each type, of which the rows need one.
struct km_workspace {
  km_workspace() : of_float(settings), of_double(settings) {}

  // See km_project.
  void project(const float* basis, const float* center, int64_t p, int64_t d);
  void end_seeding();
  template <typename T>
  km::Workspace<T>& of() {
    if constexpr (sizeof(T) == sizeof(float))
      return of_float;
    else
      return of_double;
  }

  km::WorkspaceSettings settings;
  km::Workspace<float> of_float;
  km::Workspace<double> of_double;
};
