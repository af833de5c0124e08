#include "host/dispatch.h"

#include <atomic>
#include <cstring>
#include <vector>

namespace km {

// The tables that kernel/targets/*.cpp define, one each.
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
  const char* name;        // as use_instruction_set takes it
  const Kernels* kernels;  // of kernel/targets/NAME.cpp
  bool available;          // the processor, and the operating system, have all that it uses
};

#if defined(__x86_64__)
// What kernel/targets/avx2.cpp names in its region. (The builtin asks the processor by cpuid, and
// whether the operating system saves the registers.)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}
#endif

// The instruction sets that the library has, the best first: vectors twice as wide make nearly
// twice the speed. Asked once; baseline is always there.
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

const Kernels* best_kernels() {
  for (const Choice& choice : choices())
    if (choice.available) return choice.kernels;
  return &baseline::kernels;
}

// Null until the first call. Two threads that come first at once choose the same table.
std::atomic<const Kernels*> kernels_in_use{nullptr};

}  // namespace

const Kernels& current_kernels() {
  const Kernels* chosen = kernels_in_use.load();
  if (!chosen) kernels_in_use.store(chosen = best_kernels());
  return *chosen;
}

bool use_instruction_set(const char* name) {
  for (const Choice& choice : choices())
    if (choice.available && std::strcmp(choice.name, name) == 0) {
      kernels_in_use.store(choice.kernels);
      return true;
    }
  return false;
}

}  // namespace km
