// A fuzz target of the C interface: bytes become calls that a caller may make, sizes small, results
// are checked. With -DKMEANS_LIBFUZZER=ON, which needs clang, it is libFuzzer's; else main() feeds
// it pseudo-random bytes:
//
//     fuzz SEED SECONDS     inputs SEED, SEED + 1, ... for so long, one at least
#include <chrono>
#include <csignal>

#if __has_include("abi/testing.h")
#include "abi/testing.h"
#endif
#include "fuzz_calls.h"
#include "fuzz_dense.h"
#include "fuzz_sparse.h"

bool fuzz::rounds_once = true;

namespace {

template <typename T>
void call(fuzz::Input& input) {
  // Sizes on either side of where the kernels change: 8, 16, 23 features, blocks of 64 rows, rows
  // that are sorted.
  const int64_t d = input.one_of<int64_t>({1, 2, 3, 5, 8, 9, 12, 16, 17, 24, 33, 48, 65, 130});
  const int64_t most = input.byte() % 16 ? 200 : 6000 / d;
  const int64_t n = input.byte() % 16 ? input.between(1, most) : 0;
  const int what = input.byte() % 16;
  if (what < 8) return fuzz::Dense<T>(input, n, d).run();
  if (what < 10) return fuzz::Sparse<T>(input, n, d).run();
  if (what < 12) return fuzz::neighbors<T>(input, n, d);
  if (what == 12) return fuzz::beams<T>(input, n, d);
  if (what == 13) return fuzz::sums<T>(input);
  if (what == 14) return fuzz::load<T>(input, n, d);
  return input.byte() % 4 ? fuzz::spread<T>(input, n, d) : fuzz::guards(input);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const char* const instruction_set = input.one_of({"baseline", "avx2", "avx512", "avx512"});
  if (km_use_instruction_set(instruction_set)) km_use_instruction_set("baseline");
#if defined(__x86_64__)
  fuzz::rounds_once = instruction_set[0] == 'a' && !km_use_instruction_set(instruction_set);
#endif
  input.coin() ? call<float>(input) : call<double>(input);
  return 0;
}

#ifndef KMEANS_LIBFUZZER

namespace {

uint64_t seed;

// Says which input it was, whoever ends the process.
void report() {
  std::fprintf(stderr, "again by: fuzz %llu 0\n", static_cast<unsigned long long>(seed));
}

}  // namespace

// Sanitizers abort, as broken promises do.
extern "C" KM_API const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" KM_API const char* __ubsan_default_options() { return "abort_on_error=1"; }

int main(int n_arguments, char** arguments) {
  if (n_arguments != 3) return std::fprintf(stderr, "fuzz SEED SECONDS\n"), 2;
  seed = std::strtoull(arguments[1], nullptr, 10);
  const std::chrono::duration<double> lasting(std::atof(arguments[2]));
  std::signal(SIGABRT, [](int) { report(); });
  const auto begin = std::chrono::steady_clock::now();
  int64_t runs = 0;
  do {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    uint8_t data[128];
    for (uint8_t& byte : data) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<uint8_t>(state >> 56);
    }
    LLVMFuzzerTestOneInput(data, sizeof(data));
    ++seed, ++runs;
  } while (std::chrono::steady_clock::now() - begin < lasting);
  std::printf("%lld inputs, no promise broken\n", static_cast<long long>(runs));
}

#endif
