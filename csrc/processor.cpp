// Which of the kernels serves: the best one for this processor, or the one that was asked for.

#include <atomic>
#include <cstring>
#include <vector>

#include "kernel.h"

namespace {

struct Choice {
  const char* name;
  const km_kernel* kernel;
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
      {"avx512", &km_avx512,
       has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq")},
      {"avx2", &km_avx2, has_avx2()},
#endif
      {"baseline", &km_baseline, true},
  };
  return all;
}

const km_kernel* best_kernel() {
  for (const Choice& choice : choices())
    if (choice.available) return choice.kernel;
  return &km_baseline;
}

std::atomic<const km_kernel*> kernel_in_use{nullptr};

}  // namespace

const km_kernel& current_kernel() {
  const km_kernel* chosen = kernel_in_use.load();
  if (!chosen) kernel_in_use.store(chosen = best_kernel());
  return *chosen;
}

extern "C" int km_use_instruction_set(const char* name) {
  for (const Choice& choice : choices())
    if (choice.available && std::strcmp(choice.name, name) == 0) {
      kernel_in_use.store(choice.kernel);
      return 0;
    }
  return 1;
}
