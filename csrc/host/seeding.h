// What seeding keeps of the rows, and of the last candidates.
#pragma once

#include <memory>
#include <vector>

#include "host/workspace.h"

namespace km {

template <typename T>
class Seeding {
 public:
  // Along the directions of a workspace, as they are.
  explicit Seeding(const WorkspaceSettings& settings);

  // potentials (m) of candidates (m, d), contiguous.
  void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                  double* potentials, int threads);
  // Lowers nearest by the distances to a center (d); unchanged: since potentials were measured.
  void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged, int threads);

 private:
  Search<T> ready(const km_rows& rows, const T* candidates, int64_t m);

  WorkspaceSettings settings_;
  Workspace<T> candidates_;
  bool measured_ = false;
  int64_t n_ = -1;
  Array<int32_t> columns_;
  Array<float> norms_;
  // Of the last candidates: they (m, stride), and who they reach (n).
  std::vector<T> last_;
  std::vector<uint16_t> reached_;
};

}  // namespace km
