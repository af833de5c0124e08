// Which threads work, and why:
//
//   OpenMP's   of the runtime that torch has loaded, if any. Its workers spin for some milliseconds
//              after each of torch's own calls, waiting for the next one; other threads would fight
//              them for the cores, and torch's call after ours would have to wake them up again. It
//              is found by name in this process (dlsym), so that the library needs no OpenMP, nor
//              the one that this torch happens to bring (libgomp, libomp or libiomp5).
//   std::thread elsewhere: in a process without such a runtime, and in a forked child. fork copies
//              the calling thread alone, but the runtime's memory says that its workers are there:
//              a parallel region of GOMP in such a child waits for them forever.

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

// Whether this process is a forked child, or the child of one.
std::atomic<bool> forked{false};
// Registers note_fork for every child of this process. Not 0 where there is no memory for that:
// OpenMP is then not used at all.
const int refused_watch = pthread_atfork(nullptr, nullptr, note_fork);

// The interface of GCC's runtime, which LLVM's and Intel's offer too; filled by openmp. A
// function is null where nobody has loaded a runtime with it.
struct OpenMP {
  // Runs function(data) in a team of so many threads; flags 0.
  void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
  int (*thread_num)(void);   // of this thread in its team, from 0
  int (*num_threads)(void);  // of the team
};

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

// The runtime that this process has; looked for once, by the first parallel call, when torch is
// loaded.
const OpenMP& openmp() {
  static const OpenMP runtime = [] {
    OpenMP functions;
    find(functions.parallel, "GOMP_parallel");
    find(functions.thread_num, "omp_get_thread_num");
    find(functions.num_threads, "omp_get_num_threads");
    return functions;
  }();
  return runtime;
}

struct Job {
  int64_t parts;
  const std::function<void(int64_t)>& part;
};

// What each thread of a team does. A team may be smaller than the number of parts (nested regions,
// OMP_THREAD_LIMIT): its threads then take several parts, by turns. A worker has the floating-point
// mode that torch.set_flush_denormal left it with, hence WithDenormals.
void take_turns(void* data) {
  const WithDenormals mode;
  const Job& job = *static_cast<Job*>(data);
  for (int64_t p = openmp().thread_num(); p < job.parts; p += openmp().num_threads()) job.part(p);
}

}  // namespace

void note_fork() { forked = true; }

void in_parallel(int64_t parts, const std::function<void(int64_t)>& part) {
  if (parts == 1) return part(0);
  const OpenMP& team = openmp();
  if (team.parallel && team.thread_num && team.num_threads && !forked && !refused_watch) {
    Job job{parts, part};
    return team.parallel(take_turns, &job, static_cast<unsigned>(parts), 0);
  }
  // New threads inherit the floating-point mode of this one, which the interface has set already.
  std::vector<std::thread> workers;
  for (int64_t p = 1; p < parts; ++p) {
    try {
      workers.emplace_back(part, p);
    } catch (const std::system_error&) {  // the process may have no more threads
      part(p);
    }
  }
  part(0);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace km
