#pragma once

#include "fbi/distributed/communicator.h"

namespace fbi::distributed {

/// A collective that needs no waiting.
class Finished final : public Work {
 public:
  void wait() override {}
};

}  // namespace fbi::distributed
