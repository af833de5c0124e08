// What simd_test.cpp calls of the checks that are compiled once for each instruction set.
#pragma once

namespace km {

// Takes the name of an operation, and whether it gave what a plain loop gives.
using Report = void (*)(const char* operation, bool good);

struct Checks {
  void (*run)(Report report);
};

}  // namespace km
