// What is known of some rows from one call to the next, and the centroids made ready.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "abi/native.h"
#include "host/exact_sums.h"
#include "host/memory.h"
#include "kernel/table.h"

namespace km {

// Memory for each thread that bounds may take beyond what each row may, or distances between
// centroids instead of them.
constexpr int64_t kBoundsOfThread = 40 << 20;

// Few directions along which rows are measured first; see km_project.
struct Directions {
  int64_t count = 0;          // 0: all features
  std::vector<float> basis;   // (count / 16 rounded up, d, 16)
  std::vector<float> center;  // (d); empty: the mean of the centroids
};

// What the workspaces of both types have in common.
struct WorkspaceSettings {
  bool keep = false;          // coordinates of rows
  bool sort = false;          // rows, up to kSortedFeatures
  int64_t few_centroids = 8;  // not worth bounds: all distances are computed
  Directions directions;
  double share_visited = 1;  // of the pairs of a row and a centroid, by the last E-step
};

template <typename T>
class BoxTree;
template <typename T>
class Seeding;

template <typename T>
class Workspace {
 public:
  explicit Workspace(WorkspaceSettings& settings);
  ~Workspace();

  // Makes the centroids (k, d) ready for a search; what it says holds until the next call.
  // labels (n) are those of the last call, or null; keeps says that others will follow; all, that
  // every row is to be measured.
  Search<T> ready(const km_rows& rows, const T* centroids, int64_t k, const int64_t* labels,
                  bool keeps, bool all, int threads);
  // To be called after each search of n rows, with what it saw, and how many labels have changed.
  void searched(const Search<T>& search, int64_t n, const Seen& seen, int64_t changed);

  // Coordinates are of other directions now.
  void forget_coordinates();
  // The rows, sorted, where they have few features and can be kept so; else null.
  BoxTree<T>* tree(const km_rows& rows, int threads);
  // What it knows for seeding, until that ends with the next E-step.
  Seeding<T>& seeding();
  void end_seeding();

  WorkspaceSettings& settings;
  ExactSums<T> totals;
  bool knows_inertia = false;  // from totals; distances of rows are not needed for it

 private:
  void keep_coordinates_of(const km_rows& rows, Search<T>& s);
  void pack(const T* centroids, int threads, Search<T>& s);
  void follow(const T* centroids, int threads, Search<T>& s);
  void move(Search<T>& s);
  void choose_bounds(const km_rows& rows, int threads, Search<T>& s);
  void arrange(const std::vector<float>& coordinates, int64_t axes, int32_t* begin, int32_t* end);
  void separate(const km_rows& rows, int threads, Search<T>& s);

  std::vector<int32_t> index_, position_, group_of_;
  Array<T> centroids_;
  Array<int32_t> placed_, coordinates_, labels_;
  Array<float> units_, offsets_, norms_, base_, apart_, between_, closest_, reach_;
  Array<uint8_t> bounds_;
  std::vector<float> center_, moved_least_;
  std::vector<std::array<float, 4>> terms_;
  std::vector<uint8_t> moved_most_, settled_;
  std::vector<double> moved_;
  std::vector<T> before_;       // centroids (k, d) of the last call
  std::vector<double> shifts_;  // (k): how far they have moved since
  std::vector<float> drift_;    // (places)
  int64_t n_ = -1, k_ = -1, groups_ = 0, together_ = 1;
  double spent_ = 0;  // share of pairs visited by distances between centroids, to bring it to rest
  double share_compared_ = 0;      // rows measured against others than their centroid
  double typical_ = 0, step_ = 1;  // distance of a typical row; of bounds
  bool bounded_ = false, arranged_ = false, between_pays_ = true;
  bool followed_ = false;               // reach is there, and before_
  int pause_ = 0, pause_of_apart_ = 0;  // calls that do without
  bool measured_ = false;               // coordinates of rows
  std::unique_ptr<Seeding<T>> seeding_;
  std::unique_ptr<BoxTree<T>> tree_;
  bool sorted_ = false;  // or tried to
};

}  // namespace km

// The workspace of native.h: one of each type, of which rows need one.
struct km_workspace {
  km_workspace() : of_float(settings), of_double(settings) {}

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
