#include "host/mapped_files.h"

#if defined(__unix__) || defined(__APPLE__)

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

namespace km {
namespace {

// A thread that reads a lost page is interrupted there, and on_bus_error runs in it, whatever it
// was doing: it may hold any lock, that of the allocator too. So a handler must do nothing that
// takes a lock, allocates or throws ("async-signal-safe", signal-safety(7)). What this one does:
//   reads and writes atomics      lock-free on the processors served here (asserted below)
//   mmap(MAP_FIXED)               a system call without state in the C library; POSIX does not list
//                                 it as safe, Linux and macOS are
//   sigaction, raise              listed as safe
//   calls an earlier handler      which has to be as careful, as it was before
// When the handler returns, the thread repeats its read, which now finds a page of zeros.

struct Mapping {
  // Addresses [first, last), whole pages; first is 0 where the place is free. first is written last
  // by guard_mapping, so that a handler that sees it sees last too.
  std::atomic<uintptr_t> first{0}, last{0};
  std::atomic<bool> was_cut{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a lock could be held by the thread that the handler interrupts");

// A table of fixed size, since a handler cannot wait for one that grows. A program has a few mapped
// files at a time; more than 256 are read without guard.
constexpr int kMappings = 256;
Mapping mappings[kMappings];
std::mutex registering;          // of guard_mapping; the handler never takes it
struct sigaction action_before;  // of SIGBUS, written before ours can run
uintptr_t page_size;             // bytes

// Maps zeros over the mapping of an address, from its page to the end: a file that is cut has lost
// all that follows, and one signal for each page would be slow. Returns whether there was one.
// Pages before keep showing the file. Private: nothing is ever written to the file.
bool replace_by_zeros(uintptr_t address) {
  for (Mapping& mapping : mappings) {
    const uintptr_t first = mapping.first.load(), last = mapping.last.load();
    if (!first || address < first || address >= last) continue;
    const uintptr_t page = address / page_size * page_size;
    mapping.was_cut.store(true);
    return mmap(reinterpret_cast<void*>(page), last - page, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

// The handler of SIGBUS. Signals that are not about a guarded mapping get what they would have got
// without it: an earlier handler (faulthandler's, say), or the default, which ends the process.
void on_bus_error(int number, siginfo_t* info, void* context) {
  // si_code is positive for faults, and not for signals that somebody sends (kill, raise).
  if (info->si_code > 0 && replace_by_zeros(reinterpret_cast<uintptr_t>(info->si_addr))) return;
  if (action_before.sa_flags & SA_SIGINFO) {
    action_before.sa_sigaction(number, info, context);
  } else if (action_before.sa_handler != SIG_DFL && action_before.sa_handler != SIG_IGN) {
    action_before.sa_handler(number);
  } else {
    sigaction(number, &action_before, nullptr);
    if (info->si_code <= 0) raise(number);  // a fault comes again by itself: the read is repeated
  }
}

// Installs the handler once in a process, by the first guard_mapping, never by loading the library.
//   SA_SIGINFO   for the address of the fault
//   SA_ONSTACK   on the thread's stack for signals, where it has one: its own may be full
//   SA_NODEFER   a SIGBUS within the handler (of an earlier handler) is not held back, which would
//                end the process
bool install() {
  static const bool installed = [] {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &action_before) == 0;
  }();
  return installed;
}

}  // namespace

int guard_mapping(const void* start, int64_t n_bytes) {
  const std::lock_guard<std::mutex> lock(registering);
  if (n_bytes <= 0 || !install()) return -1;
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  for (int i = 0; i < kMappings; ++i) {
    Mapping& mapping = mappings[i];
    if (mapping.first.load()) continue;
    mapping.was_cut.store(false);
    const uintptr_t last = address + static_cast<uintptr_t>(n_bytes) + page_size - 1;
    mapping.last.store(last / page_size * page_size);
    mapping.first.store(address / page_size * page_size);
    return i;
  }
  return -1;
}

int mapping_was_cut(int mapping) { return mappings[mapping].was_cut.load(); }

void release_mapping(int mapping) { mappings[mapping].first.store(0); }

}  // namespace km

#else

namespace km {

int guard_mapping(const void*, int64_t) { return -1; }
int mapping_was_cut(int) { return 0; }
void release_mapping(int) {}

}  // namespace km

#endif
