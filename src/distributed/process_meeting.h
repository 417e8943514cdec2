#pragma once

#include <c10/util/intrusive_ptr.h>

#include <functional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "fbi/core/error.h"
#include "fbi/distributed/communicator.h"
#include "fbi/distributed/process_group.h"

/// What the process groups on LibTorch's c10d have in common.
namespace fbi::distributed {

using StorePointer = c10::intrusive_ptr<c10d::Store>;

/// While it lives LibTorch prints nothing below a fatal error: what goes wrong is in the exception.
class QuietLibTorch {
 public:
  QuietLibTorch();
  ~QuietLibTorch();
  QuietLibTorch(const QuietLibTorch&) = delete;
  QuietLibTorch& operator=(const QuietLibTorch&) = delete;

 private:
  int before_;
};

/// The processes of `rendezvous` meet at a store that rank 0 serves, and shake hands. Throws as make_gloo_group.
StorePointer meet(const Rendezvous& rendezvous, const ProcessGroupOptions& options);

/// Without LibTorch's backtrace.
std::string message_of(const std::exception& error);

/// Calls into c10d; what it throws about other ranks becomes a PeerError.
template <class Call>
auto guarded(const std::string& operation, Call&& call) {
  try {
    return call();
  } catch (const std::exception& error) {
    throw PeerError(concat(operation, ": a rank was lost or stands still: ", message_of(error)));
  }
}

/// A collective that needs no waiting.
class Finished final : public Work {
 public:
  void wait() override {}
};

}  // namespace fbi::distributed
