#pragma once

#include <c10/util/Exception.h>

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "distributed/pulse.h"
#include "fbi/distributed/process_group.h"

/// What the process groups on LibTorch's c10d have in common.
namespace fbi::distributed {

/// While one of them lives LibTorch prints nothing below a fatal error: what goes wrong is in the
/// exception.
class QuietLibTorch {
 public:
  QuietLibTorch();
  ~QuietLibTorch();
  QuietLibTorch(const QuietLibTorch&) = delete;
  QuietLibTorch& operator=(const QuietLibTorch&) = delete;
};

/// What a rank holds once all have met.
struct Met {
  StorePointer store;  ///< rank 0 serves it to the others
  std::shared_ptr<Pulse> pulse;
};

/// The processes of `rendezvous` meet at a store that rank 0 serves, and shake hands. `gpu` names
/// the one that this rank computes on among those of its machine; "": none. Throws as
/// make_gloo_group.
Met meet(const Rendezvous& rendezvous, const ProcessGroupOptions& options,
         const std::string& gpu = {});

/// Without LibTorch's backtrace.
std::string message_of(const std::exception& error);

/// After which a wait asks whether the others still live: a network that is cut, or NCCL between
/// GPUs of one machine, says nothing of a lost rank.
constexpr std::chrono::seconds kPatience{2};

/// Names the ranks that are missing.
[[noreturn]] void throw_lost(Pulse& pulse, const std::string& operation, const std::string& reason);

/// Calls into c10d; what it throws about other ranks becomes a PeerError. What this rank's own GPU
/// or memory does is its own error.
template <class Call>
auto guarded(Pulse& pulse, const std::string& operation, Call&& call) {
  try {
    return call();
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::AcceleratorError&) {
    throw;
  } catch (const std::exception& error) {
    throw_lost(pulse, operation, message_of(error));
  }
}

}  // namespace fbi::distributed
