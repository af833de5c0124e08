#include "host/mapped_files.h"

#if defined(__unix__) || defined(__APPLE__)

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

namespace km {
namespace {

struct Mapping {
  std::atomic<uintptr_t> first{0}, last{0};  // [first, last), whole pages; first is 0 where free
  std::atomic<bool> cut{false};
};

constexpr int n_mappings = 256;
Mapping mappings[n_mappings];
std::mutex registering;
struct sigaction before;
uintptr_t page_size;

// Maps zeros over the rest of the mapping; mmap is a bare system call, safe in a handler.
bool fill(uintptr_t address) {
  for (Mapping& mapping : mappings) {
    const uintptr_t first = mapping.first.load(), last = mapping.last.load();
    if (!first || address < first || address >= last) continue;
    const uintptr_t page = address / page_size * page_size;
    mapping.cut.store(true);
    return mmap(reinterpret_cast<void*>(page), last - page, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  // si_code is positive for faults, and not for signals that somebody sends
  if (info->si_code > 0 && fill(reinterpret_cast<uintptr_t>(info->si_addr))) return;
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else {
    sigaction(number, &before, nullptr);
    if (info->si_code <= 0) raise(number);  // a fault comes again by itself
  }
}

bool install() {
  static const bool installed = [] {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &before) == 0;
  }();
  return installed;
}

}  // namespace

int guard_mapping(const void* start, int64_t n_bytes) {
  const std::lock_guard<std::mutex> lock(registering);
  if (n_bytes <= 0 || !install()) return -1;
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  for (int i = 0; i < n_mappings; ++i) {
    Mapping& mapping = mappings[i];
    if (mapping.first.load()) continue;
    mapping.cut.store(false);
    const uintptr_t last = address + static_cast<uintptr_t>(n_bytes) + page_size - 1;
    mapping.last.store(last / page_size * page_size);
    mapping.first.store(address / page_size * page_size);
    return i;
  }
  return -1;
}

int mapping_was_cut(int mapping) { return mappings[mapping].cut.load(); }

void release_mapping(int mapping) { mappings[mapping].first.store(0); }

}  // namespace km

#else

namespace km {

int guard_mapping(const void*, int64_t) { return -1; }
int mapping_was_cut(int) { return 0; }
void release_mapping(int) {}

}  // namespace km

#endif
