// Threads of the OpenMP that torch has loaded, if any: its workers spin for a while after
// each of torch's own calls, and other threads would fight them for the cores. Elsewhere, and
// in a forked child, where those workers are lost, std::thread.

#include "host/threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "host/denormals.h"

namespace km {

namespace {

std::atomic<bool> forked{false};
const int watching = pthread_atfork(nullptr, nullptr, note_fork);

struct OpenMP {
  // The interface of GCC's runtime, which those of LLVM and Intel have too.
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
  int (*thread_num)(void);
  int (*num_threads)(void);
};

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

const OpenMP& openmp() {
  static const OpenMP found = [] {
    OpenMP those;
    find(those.parallel, "GOMP_parallel");
    find(those.thread_num, "omp_get_thread_num");
    find(those.num_threads, "omp_get_num_threads");
    return those;
  }();
  return found;
}

struct Job {
  int64_t parts;
  const std::function<void(int64_t)>& part;
};

void take_turns(void* given) {
  const WithDenormals counting;
  const Job& job = *static_cast<Job*>(given);
  for (int64_t p = openmp().thread_num(); p < job.parts; p += openmp().num_threads()) job.part(p);
}

}  // namespace

void note_fork() { forked = true; }

void in_parallel(int64_t parts, const std::function<void(int64_t)>& part) {
  if (parts == 1) return part(0);
  const OpenMP& team = openmp();
  if (team.parallel && team.thread_num && team.num_threads && !forked && !watching) {
    Job job{parts, part};
    return team.parallel(take_turns, &job, static_cast<unsigned>(parts), 0);
  }
  std::vector<std::thread> others;
  for (int64_t p = 1; p < parts; ++p) {
    try {
      others.emplace_back(part, p);
    } catch (const std::system_error&) {  // no thread to be had: do its part here
      part(p);
    }
  }
  part(0);
  for (std::thread& other : others) other.join();
}

}  // namespace km
