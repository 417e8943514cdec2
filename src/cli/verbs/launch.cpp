#include <algorithm>
#include <charconv>
#include <cmath>

#include "cli/launch.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

constexpr std::int64_t kMostProcesses = 1024, kMostNodes = 65536;
constexpr int kDefaultPort = 29500;  // as other launchers have it

/// --nodes, --node and --master.
void read_nodes(const Arguments& arguments, LaunchOptions& options) {
  options.nodes = static_cast<int>(arguments.integer("nodes", 1, kMostNodes));
  const std::string node = arguments.text("node"), master = arguments.text("master");
  if (options.nodes == 1) {
    if ((!node.empty() && node != "0") || (!master.empty() && node.empty()))
      throw UsageError("--node and --master are for several machines: give --nodes, too");
    return;
  }
  if (node.empty() || master.empty())
    throw UsageError(
        "--nodes: each machine needs --node, its number from 0 on, and --master, the host of "
        "number 0 as all of them reach it");
  options.node = static_cast<int>(arguments.integer("node", 0, options.nodes - 1));
  const auto colon = std::min(master.find(':'), master.size());
  options.master_host = master.substr(0, colon);
  options.master_port = kDefaultPort;
  if (colon < master.size()) {
    const char *port = master.c_str() + colon + 1, *end = master.c_str() + master.size();
    const auto [rest, error] = std::from_chars(port, end, options.master_port);
    if (error != std::errc() || rest != end) options.master_port = 0;
  }
  if (options.master_host.empty() || options.master_port < 1 || options.master_port > 65535)
    throw UsageError(concat("--master: expected HOST or HOST:PORT, found '", master, "'"));
}

int run_launch(const Arguments& arguments) {
  LaunchOptions options;
  options.processes = static_cast<int>(arguments.integer("nproc", 1, kMostProcesses));
  read_nodes(arguments, options);
  options.program = arguments.text("program");
  options.arguments = arguments.list("command");
  if (options.program.empty() && options.arguments.front() == "launch")
    throw UsageError(
        "launch cannot start itself: name the verb that the ranks shall run, e.g. train");
  const std::string output = arguments.text("output");
  if (output != "first" && output != "all")
    throw UsageError(concat("--output: expected first or all, found '", output, "'"));
  options.output = output == "all" ? LaunchOutput::kPrefixed : LaunchOutput::kFirstRank;
  const double grace = arguments.number("grace-seconds");
  if (!(grace >= 0 && grace <= 86400))
    throw UsageError(concat("--grace-seconds: expected 0 to 86400, found ", grace));
  options.grace = std::chrono::milliseconds(std::llround(1000 * grace));
  return launch_ranks(options);
}

}  // namespace

Verb launch_verb() {
  Verb verb{
      "launch",
      "run a verb on several ranks of this machine, or of several",
      "Starts N processes of this program, which find each other by RANK, WORLD_SIZE, "
      "LOCAL_RANK, MASTER_ADDR and MASTER_PORT (a "
      "free port). What follows -- is the verb with its options. With --nodes the same is "
      "started on every machine, within five minutes. Signals are passed on to all "
      "ranks. When one fails, the others "
      "are ended, and its exit code is that of the launch: a failure of its own counts before "
      "5 (another rank lost), that before 75. "
      "No rank outlives the launch. Each rank gets an equal share of the processors, unless "
      "OMP_NUM_THREADS is set. Under Slurm "
      "srun does all of this.",
      "command",
      {{"nproc", "N", "how many ranks on this machine: one per GPU, or a few on CPUs", "", true},
       {"nodes", "N", "how many machines, each with as many ranks", "1"},
       {"node", "I", "which of them this is, from 0 on"},
       {"master", "HOST[:PORT]",
        concat("machine 0, as all of them reach it, and where its first rank listens (port ",
               kDefaultPort, " without one)")},
       {"command", "VERB", "the verb and its options, after --", "", true, true},
       {"output", "WHAT",
        "first: what the first rank of this machine prints, and the last lines of a rank that "
        "fails; all: every line of every rank, after [rank]",
        "first"},
       {"grace-seconds", "X",
        "how long the other ranks may take to end after one has failed, before they are killed",
        "30"},
       {"program", "FILE", "another program to start, e.g. one of your own on this library"}},
      {"fbi-llm launch --nproc 4 -- train --config configs/130m.json --run-dir runs/130m "
       "--resume auto",
       "fbi-llm launch --nodes 2 --node 0 --master host0 --nproc 4 -- train --config "
       "configs/1.3b.json --run-dir runs/1.3b",
       "fbi-llm launch --nproc 2 --output all -- config configs/130m.json --world-size 2"},
      run_launch};
  verb.heeds_stop = true;
  return verb;
}

}  // namespace fbi::cli
