// The threads that share the work.
#pragma once

#include <cstdint>
#include <functional>

namespace km {

// Calls part(0) to part(parts - 1), each once, at the same time where that can be.
void in_parallel(int64_t parts, const std::function<void(int64_t)>& part);

// Says that this process is a forked child: workers of OpenMP are lost.
void note_fork();

}  // namespace km
