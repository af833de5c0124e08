// The threads that share the work of a call.
#pragma once

#include <cstdint>
#include <functional>

namespace km {

// Calls part(0) to part(parts - 1), parts >= 1, each once, at the same time where threads are to be
// had, and returns when all have returned. part must not throw: no thread could hand that over.
void in_parallel(int64_t parts, const std::function<void(int64_t)>& part);

// Says that this process is a forked child: OpenMP's workers stayed behind in its parent. Called
// by pthread_atfork where the library is loaded, and by km_forked where it was not at the fork.
void note_fork();

}  // namespace km
