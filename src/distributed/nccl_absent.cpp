#include "fbi/core/error.h"
#include "fbi/distributed/process_group.h"

namespace fbi::distributed {

std::unique_ptr<Communicator> make_nccl_group(const Rendezvous&, at::Device,
                                              const ProcessGroupOptions&) {
  throw UsageError("this build has no NCCL: build with scripts/build.sh --cuda");
}

}  // namespace fbi::distributed
