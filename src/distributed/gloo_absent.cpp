#include "fbi/core/error.h"
#include "fbi/distributed/process_group.h"

namespace fbi::distributed {

bool has_gloo() {
  return false;
}

std::unique_ptr<Communicator> make_gloo_group(const Rendezvous& rendezvous,
                                              const ProcessGroupOptions&) {
  if (rendezvous.world_size == 1) return make_single_rank();
  throw UsageError(concat("this build can't join ", rendezvous.world_size,
                          " processes: install Gloo's headers (libgloo-dev) and build again"));
}

}  // namespace fbi::distributed
