// Denormal numbers count here, whatever torch.set_flush_denormal has said of some threads: results
// would depend on which of them has a row.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace km {

// While one of these lives, in its thread.
class WithDenormals {
 public:
  WithDenormals() : before_(read()) {
    if (before_ & kFlush) write(before_ & ~kFlush);
  }
  ~WithDenormals() {
    if (before_ & kFlush) write(before_);
  }
  WithDenormals(const WithDenormals&) = delete;
  WithDenormals& operator=(const WithDenormals&) = delete;

 private:
#if defined(__x86_64__)
  using Mode = uint32_t;
  static constexpr Mode kFlush = 0x8040;  // results; operands
  static Mode read() { return _mm_getcsr(); }
  static void write(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode kFlush = 1 << 24;  // both
  static Mode read() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Mode = uint32_t;
  static constexpr Mode kFlush = 0;
  static Mode read() { return 0; }
  static void write(Mode) {}
#endif

  const Mode before_;
};

}  // namespace km
