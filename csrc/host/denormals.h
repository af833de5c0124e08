// Denormal numbers, smaller than the least normal one (1.2e-38 of floats), count in this library.
// torch.set_flush_denormal(True) makes the processor read and write them as 0, but only in the
// threads that torch tells: the caller, perhaps, and not OpenMP's workers. Distances, and so
// labels, would depend on which thread has a row. So the mode is set for the time of a call, in
// each thread that works, and set back for the caller.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace km {

// While one of these lives, denormal numbers count in the thread that made it; it must die there
// too. Reading the mode takes some cycles, setting it some tens, which is done only where needed.
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
  using Mode = uint32_t;  // the register MXCSR
  // FTZ, bit 15: results that are denormal become 0; DAZ, bit 6: operands are read as 0.
  static constexpr Mode kFlush = 1 << 15 | 1 << 6;
  static Mode read() { return _mm_getcsr(); }
  static void write(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;                   // the register FPCR
  static constexpr Mode kFlush = 1 << 24;  // FZ: results and operands
  static Mode read() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Mode = uint32_t;  // other processors: nothing is known to be flushed
  static constexpr Mode kFlush = 0;
  static Mode read() { return 0; }
  static void write(Mode) {}
#endif

  const Mode before_;
};

}  // namespace km
