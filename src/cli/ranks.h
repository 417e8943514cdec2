#pragma once

#include <memory>

#include "cli/verb.h"
#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/distributed/rendezvous.h"

namespace fbi::cli {

/// Options of verbs that run as several ranks: --rank, --world-size, --local-rank, --master-addr,
/// --master-port.
std::vector<Option> rank_options();

/// Who this process is, from those options and the environment (distributed::discover_rank).
distributed::Rendezvous discover_rank(const Arguments& arguments);

/// nccl or gloo; UsageError where the one asked for does not go with the ranks' devices.
std::string choose_backend(const config::ParallelConfig& parallel, bool on_gpus);

/// Joins the other ranks; they must have the same configuration and program. Throws UsageError
/// where they do not fit together, PeerError where some do not come.
std::unique_ptr<distributed::Communicator> join_ranks(const distributed::Rendezvous& rendezvous,
                                                      const config::RunConfig& config);
/// Joins the other ranks of a verb without a configuration: by --device, with otherwise the same
/// options.
std::unique_ptr<distributed::Communicator> join_ranks(const distributed::Rendezvous& rendezvous,
                                                      const Arguments& arguments);

/// What all ranks would say alike, rank 0 says.
void quieten_other_ranks(const distributed::Rendezvous& rendezvous);

}  // namespace fbi::cli
