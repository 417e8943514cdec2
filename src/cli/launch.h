#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

/// Several ranks of one program as processes of this machine, or of each of several: `fbi-llm
/// launch`.
namespace fbi::cli {

enum class LaunchOutput {
  kFirstRank,  ///< what rank 0 prints, as it is; of another rank only its last lines, if it fails
  kPrefixed,   ///< every line of every rank, after "[rank] "
};

struct LaunchOptions {
  int processes = 1;                   ///< on this machine
  int nodes = 1, node = 0;             ///< machines with as many each, and which this one is
  std::string master_host;             ///< machine of rank 0; with one node this one
  int master_port = 0;                 ///< where rank 0 listens; with one node any free port
  std::string program;                 ///< file to execute; "": this program
  std::vector<std::string> arguments;  ///< of each rank
  LaunchOutput output = LaunchOutput::kFirstRank;
  std::chrono::milliseconds grace{30'000};  ///< between SIGTERM and SIGKILL once a rank has failed
};

/// Runs this machine's ranks and returns the exit code of the whole. Each rank gets RANK,
/// WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and, unless it is set, its share of the
/// processors as OMP_NUM_THREADS; standard input is empty. stop_signals() are passed on; a second
/// SIGINT kills the ranks. Once a rank has ended with another code than 0 or 75, the others get
/// SIGTERM and after `grace` SIGKILL; when this process dies, however, they get SIGKILL from the
/// kernel. Throws UsageError when the program can't be executed.
int launch_ranks(const LaunchOptions& options);

/// How a rank ended, in the order of time.
struct RankEnd {
  int rank = 0;
  int code = 0;              ///< exit code, 128 + signal when a signal ended it
  bool by_launcher = false;  ///< by a signal that the launcher had sent
};

/// The end that decides: a rank's own failure before a lost peer (5), that before a requested stop
/// (75), that before 0; among equals the first. `ends` is not empty.
const RankEnd& decisive_end(const std::vector<RankEnd>& ends);

}  // namespace fbi::cli
