#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "fbi/distributed/communicator.h"
#include "fbi/distributed/rendezvous.h"

namespace fbi::distributed {

struct ProcessGroupOptions {
  /// By when all ranks must have found each other.
  std::chrono::milliseconds start_timeout{30'000};
  /// How long a collective waits for a rank that lives and does not come.
  std::chrono::milliseconds timeout{600'000};
  /// What has to be equal on all ranks, e.g. {"config hash", …}, {"program version", …}.
  std::map<std::string, std::string> must_agree;
};

/// Whether this build has the Gloo form (its headers were there when it was configured).
bool has_gloo();

/// Joins the group of processes that `rendezvous` describes, over Gloo; tensors lie on the CPU. One
/// rank gives make_single_rank(). Traffic takes the network that leads to rank 0. Sums are formed
/// in rank order, bit for bit as in a group of threads, at the price of more traffic for
/// all_reduce. Collectives run in the background until wait(); they throw PeerError when a rank is
/// gone (at once), gives no sign of life (after 20 seconds), or lives and does not come (after
/// `timeout`). Throws UsageError on every rank, within start_timeout, when the port is in use,
/// ranks are there twice, or they disagree in world size or in `must_agree`; the odd one is named.
/// PeerError when ranks, or rank 0, have not come in that time, or one is lost while the
/// connections are made. From here on the process ignores SIGPIPE, unless it handles it: writing to
/// a lost rank must be an error, not its end.
std::unique_ptr<Communicator> make_gloo_group(const Rendezvous& rendezvous,
                                              const ProcessGroupOptions& options = {});

/// The same over NCCL, for tensors on `device`, this process's own GPU; the ranks meet as those of
/// Gloo do. Small CPU tensors may be passed too and go through the GPU. Sums are formed in NCCL's
/// order: equal on all ranks, not the same bits as over Gloo. Throws UsageError when the build has
/// no NCCL.
std::unique_ptr<Communicator> make_nccl_group(const Rendezvous& rendezvous, at::Device device,
                                              const ProcessGroupOptions& options = {});

}  // namespace fbi::distributed
