// What seeding keeps of the rows, and of the last candidates.
#pragma once

#include <memory>
#include <vector>

#include "workspace.h"

struct km_seeding {
  // Along the directions of a workspace, as they are.
  explicit km_seeding(const km_workspace& workspace);

  // potentials (m) of candidates (m, d), contiguous.
  template <typename T>
  void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                  double* potentials, int threads);
  // Lowers nearest by the distances to a centre (d); unchanged: since potentials were measured.
  template <typename T>
  void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged, int threads);

 private:
  template <typename T>
  km_search ready(const km_kernel& kernel, const km_rows& rows, const T* candidates, int64_t m);

  km_workspace candidates_;
  bool keep_, measured_ = false;
  int64_t n_ = -1;
  std::unique_ptr<int32_t[], Free> columns_;
  std::unique_ptr<float[], Free> norms_;
  // Of the last candidates: they (m, stride), and who they reach (n).
  std::vector<char> last_;
  std::vector<uint16_t> reached_;
};
