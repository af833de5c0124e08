#include "host/dispatch.h"

#include <atomic>
#include <cstring>
#include <vector>

namespace km {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#endif
namespace baseline {
extern const Kernels kernels;
}

namespace {

struct Choice {
  const char* name;
  const Kernels* kernel;
  bool available;
};

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}
#endif

// The best first.
const std::vector<Choice>& choices() {
  static const std::vector<Choice> all = {
#if defined(__x86_64__)
      {"avx512", &avx512::kernels,
       has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq")},
      {"avx2", &avx2::kernels, has_avx2()},
#endif
      {"baseline", &baseline::kernels, true},
  };
  return all;
}

const Kernels* best_kernel() {
  for (const Choice& choice : choices())
    if (choice.available) return choice.kernel;
  return &baseline::kernels;
}

std::atomic<const Kernels*> kernel_in_use{nullptr};

}  // namespace

const Kernels& current_kernels() {
  const Kernels* chosen = kernel_in_use.load();
  if (!chosen) kernel_in_use.store(chosen = best_kernel());
  return *chosen;
}

bool use_instruction_set(const char* name) {
  for (const Choice& choice : choices())
    if (choice.available && std::strcmp(choice.name, name) == 0) {
      kernel_in_use.store(choice.kernel);
      return true;
    }
  return false;
}

}  // namespace km
