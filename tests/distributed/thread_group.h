#pragma once

#include <memory>
#include <vector>

#include "fbi/distributed/communicator.h"

namespace fbi::distributed {

/// A group of `size` ranks within this process, one per thread. Collectives are finished when they
/// return and reduce in rank order, so results don't depend on timing. A rank whose communicator is
/// destroyed makes all that wait for it throw PeerError; ranks that call different operations all
/// throw UsageError.
std::vector<std::unique_ptr<Communicator>> make_thread_group(int size);

}  // namespace fbi::distributed
