#include "abi/testing.h"

#include "host/dispatch.h"
#include "host/workspace.h"

extern "C" int km_use_instruction_set(const char* name) { return !km::use_instruction_set(name); }

extern "C" double km_share_visited(const km_workspace* workspace) {
  return workspace->settings.share_visited;
}
