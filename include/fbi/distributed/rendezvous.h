#pragma once

#include <map>
#include <optional>
#include <string>

namespace fbi::distributed {

/// What the command line says about ranks; each value is optional.
struct RankFlags {
  std::optional<int> rank, world_size, local_rank;
  std::optional<std::string> master_addr;
  std::optional<int> master_port;
};

/// Who this process is, and where all processes meet.
struct Rendezvous {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;       ///< counted on this machine: picks the GPU
  std::string master_addr;  ///< host of rank 0; "" when world_size is 1 and nothing named one
  int master_port = 0;      ///< 0 when world_size is 1 and nothing named one
  std::string attempt;      ///< tells starts apart that find one store; "": each has its own
  std::string source;       ///< "flags" | "environment" | "slurm" | "openmpi" | "one rank"
};

using Environment = std::map<std::string, std::string>;

/// The variables of this process.
Environment current_environment();

/// Rank and world size, from the first that tells both: flags; RANK, WORLD_SIZE, LOCAL_RANK
/// (torchrun's names); Open MPI's OMPI_COMM_WORLD_*; a task of a Slurm step; else one rank. What an
/// earlier source leaves open comes from the next, and flags must agree with the source below them.
/// MASTER_ADDR and MASTER_PORT count everywhere; without them Slurm's first node serves, or
/// 127.0.0.1 when all ranks are on this machine. A pure function. Throws UsageError, with all
/// values named, for values that contradict each other, are no numbers or are out of range, or
/// leave something open that several ranks need.
Rendezvous discover_rank(const RankFlags& flags, const Environment& environment);

/// The first host of a Slurm node list: "gpu[03-07,12],login1" -> "gpu03". Throws UsageError when
/// it can't be read.
std::string first_host(const std::string& node_list);

}  // namespace fbi::distributed
