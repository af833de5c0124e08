// Compares each operation of csrc/kernel/simd/ with a plain loop: simd_test avx512|avx2|baseline.
// Prints the operations that differ; exits 0 where none does, 1 where one does, and 2 where the
// processor does not have the instruction set.
#include "simd_test.h"

#include <cstdio>
#include <cstring>

namespace km {
#if defined(__x86_64__)
namespace avx512 {
extern const Checks checks;
}
namespace avx2 {
extern const Checks checks;
}
#endif
namespace baseline {
extern const Checks checks;
}
}  // namespace km

namespace {

int compared = 0, failed = 0;
const char* last_failed = "";

void report(const char* operation, bool good) {
  ++compared;
  if (good) return;
  ++failed;
  if (std::strcmp(operation, last_failed) != 0) std::printf("%s differs\n", operation);
  last_failed = operation;
}

bool has(const char* feature) {
#if defined(__x86_64__)
  if (std::strcmp(feature, "avx512") == 0)
    return has("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq");
  if (std::strcmp(feature, "avx2") == 0)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
#endif
  return std::strcmp(feature, "baseline") == 0;
}

}  // namespace

int main(int, char** arguments) {
  const char* const name = arguments[1];
  if (!has(name)) return 2;
  const km::Checks* checks = &km::baseline::checks;
#if defined(__x86_64__)
  if (std::strcmp(name, "avx512") == 0) checks = &km::avx512::checks;
  if (std::strcmp(name, "avx2") == 0) checks = &km::avx2::checks;
#endif
  checks->run(report);
  std::printf("%d compared, %d failed\n", compared, failed);
  return failed > 0;
}
