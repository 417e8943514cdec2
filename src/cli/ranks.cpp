#include "cli/ranks.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <span>

#include "fbi/config/compare.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/log.h"
#include "fbi/core/version.h"
#include "fbi/distributed/process_group.h"
#include "fbi/ops/device.h"

namespace fbi::cli {
namespace {

std::optional<int> number(const Arguments& arguments, const std::string& name) {
  if (!arguments.has(name)) return std::nullopt;
  return static_cast<int>(arguments.integer(name, 0, std::numeric_limits<int>::max()));
}

std::optional<std::string> text(const Arguments& arguments, const std::string& name) {
  if (!arguments.has(name)) return std::nullopt;
  return arguments.text(name);
}

/// Before ranks meet each one loads LibTorch, for a GPU gigabytes of it, and starts its GPU.
constexpr std::chrono::milliseconds kEarliestStart{30'000}, kLatestStart{300'000};

std::unique_ptr<distributed::Communicator> make_group(const distributed::Rendezvous& rendezvous,
                                                      const std::string& device_name,
                                                      const config::ParallelConfig& parallel,
                                                      const std::string& must_agree) {
  const at::Device device = ops::choose_device(device_name, rendezvous.local_rank);
  if (rendezvous.world_size == 1) return distributed::make_single_rank(device);
  const std::string backend = choose_backend(parallel, device.is_cuda());
  distributed::ProcessGroupOptions options;
  options.timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(parallel.timeout_seconds * 1000));
  options.start_timeout = std::clamp(options.timeout, kEarliestStart, kLatestStart);
  options.must_agree = {{"configuration", hash128_hex(std::as_bytes(std::span(must_agree)))},
                        {"program version", version()}};
  auto communicator = backend == "nccl" ? distributed::make_nccl_group(rendezvous, device, options)
                                        : distributed::make_gloo_group(rendezvous, options);
  log::info(communicator->description(), ", by ", rendezvous.source, ", meeting at ",
            rendezvous.master_addr, ":", rendezvous.master_port);
  return communicator;
}

}  // namespace

std::vector<Option> rank_options() {
  return {{"rank", "R", "number of this process; by default from RANK, Slurm or Open MPI"},
          {"world-size", "N", "number of processes; by default from WORLD_SIZE, Slurm or Open MPI"},
          {"local-rank", "R", "number of this process on its machine: picks the GPU"},
          {"master-addr", "HOST",
           "machine of rank 0; by default MASTER_ADDR, Slurm's first node or this machine"},
          {"master-port", "PORT", "port on which rank 0 listens; by default MASTER_PORT"}};
}

distributed::Rendezvous discover_rank(const Arguments& arguments) {
  distributed::RankFlags flags;
  flags.rank = number(arguments, "rank");
  flags.world_size = number(arguments, "world-size");
  flags.local_rank = number(arguments, "local-rank");
  flags.master_addr = text(arguments, "master-addr");
  flags.master_port = number(arguments, "master-port");
  return distributed::discover_rank(flags, distributed::current_environment());
}

std::string choose_backend(const config::ParallelConfig& parallel, bool on_gpus) {
  if (parallel.backend == "gloo" && on_gpus)
    throw UsageError(
        "parallel.backend gloo is for ranks on CPUs: set train.device=cpu, or "
        "parallel.backend=nccl");
  if (parallel.backend == "nccl" && !on_gpus)
    throw UsageError(
        "parallel.backend nccl is for ranks on GPUs: set train.device=cuda, or "
        "parallel.backend=gloo");
  if (parallel.backend == "auto") return on_gpus ? "nccl" : "gloo";
  return parallel.backend;
}

std::unique_ptr<distributed::Communicator> join_ranks(const distributed::Rendezvous& rendezvous,
                                                      const config::RunConfig& config) {
  return make_group(rendezvous, config.train.device, config.parallel, config::to_json(config));
}

std::unique_ptr<distributed::Communicator> join_ranks(const distributed::Rendezvous& rendezvous,
                                                      const Arguments& arguments) {
  std::vector<std::string> own;
  for (const Option& option : rank_options()) own.push_back(option.name);
  return make_group(rendezvous, arguments.text("device"), {}, arguments.all_but(own));
}

void quieten_other_ranks(const distributed::Rendezvous& rendezvous) {
  if (rendezvous.rank == 0) return;
  log::reset();
  log::add_terminal(log::Level::kWarn);
}

}  // namespace fbi::cli
