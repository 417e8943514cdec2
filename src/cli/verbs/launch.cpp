#include <cmath>

#include "cli/launch.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

constexpr std::int64_t kMostProcesses = 1024;

int run_launch(const Arguments& arguments) {
  LaunchOptions options;
  const std::int64_t processes = arguments.integer("nproc");
  if (processes < 1 || processes > kMostProcesses)
    throw UsageError(concat("--nproc: expected 1 to ", kMostProcesses, ", found ", processes));
  options.processes = static_cast<int>(processes);
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
  return {"launch",
          "run a verb on several ranks of this machine",
          "Starts N processes of this program, which find each other by RANK, WORLD_SIZE, "
          "LOCAL_RANK, MASTER_ADDR and MASTER_PORT (a "
          "free port). What follows -- is the verb with its options. Signals are passed on to all "
          "ranks. When one fails, the others "
          "are ended, and its exit code is that of the launch: a failure of its own counts before "
          "5 (another rank lost), that before 75. "
          "No rank outlives the launch. Each rank gets an equal share of the processors, unless "
          "OMP_NUM_THREADS is set. Under Slurm "
          "srun does all of this.",
          "command",
          {{"nproc", "N", "how many ranks: one per GPU, or a few on CPUs", "", true, false},
           {"command", "WORDS", "the verb and its options, after --", "", true, true},
           {"output", "WHAT",
            "first: what rank 0 prints, and the last lines of a rank that fails; all: every line "
            "of every rank, after [rank]",
            "first", false, false},
           {"grace-seconds", "X",
            "how long the other ranks may take to end after one has failed, before they are killed",
            "30", false, false},
           {"program", "FILE", "another program to start, e.g. one of your own on this library", "",
            false, false}},
          {"fbi-llm launch --nproc 4 -- train --config configs/130m.json --run-dir runs/130m "
           "--resume auto",
           "fbi-llm launch --nproc 2 --output all -- config configs/130m.json --world-size 2"},
          run_launch};
}

}  // namespace fbi::cli
