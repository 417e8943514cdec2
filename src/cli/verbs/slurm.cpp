#include "cli/slurm.h"

#include <array>
#include <filesystem>
#include <iostream>
#include <regex>

#include "cli/output_check.h"
#include "cli/verbs.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::cli {
namespace {

/// Nodes and GPUs per node of the published runs; 13b: the architecture alone was published.
struct Preset {
  const char* name;
  std::int64_t nodes, gpus_per_node;
};
constexpr std::array<Preset, 4> kPresets = {
    {{"130m", 1, 4}, {"1.3b", 4, 4}, {"7b", 8, 4}, {"13b", 16, 4}}};

/// Slurm looks at time limits every 30 seconds, and a signal may come a minute early.
constexpr std::int64_t kSlackSeconds = 60;

/// --config, --nodes and --gpus-per-node, each from the preset where it is not given.
void set_shape(const Arguments& arguments, SlurmJob& job) {
  const Preset* preset = nullptr;
  for (const auto& known : kPresets)
    if (arguments.text("preset") == known.name) preset = &known;
  if (!preset && arguments.has("preset"))
    throw UsageError(
        concat("--preset: expected 130m, 1.3b, 7b or 13b, found '", arguments.text("preset"), "'"));
  std::string missing;
  for (const char* option : {"config", "nodes", "gpus-per-node"})
    if (!preset && !arguments.has(option)) missing += concat(" --", option);
  if (!missing.empty()) throw UsageError(concat("fbi-llm slurm needs --preset NAME, or:", missing));
  job.config = arguments.has("config") ? arguments.text("config")
                                       : concat("configs/", preset->name, ".json");
  if (!arguments.has("config") && !std::filesystem::exists(job.config))
    throw UsageError(concat("--preset ", preset->name, " needs ", job.config,
                            ": call it in this program's repository, or give --config FILE"));
  job.nodes = arguments.has("nodes") ? arguments.integer("nodes", 1, 1 << 16) : preset->nodes;
  job.gpus_per_node = arguments.has("gpus-per-node") ? arguments.integer("gpus-per-node", 0, 1024)
                                                     : preset->gpus_per_node;
  if (arguments.has("ranks-per-node")) {
    job.ranks_per_node = arguments.integer("ranks-per-node", 1, 1024);
    if (job.gpus_per_node > 0 && job.ranks_per_node != job.gpus_per_node)
      throw UsageError(concat("--ranks-per-node ", job.ranks_per_node, " and --gpus-per-node ",
                              job.gpus_per_node,
                              ": each GPU serves one rank; leave --ranks-per-node out"));
  } else if (job.gpus_per_node == 0) {
    throw UsageError("--gpus-per-node 0 means ranks on CPUs: say how many by --ranks-per-node");
  } else {
    job.ranks_per_node = job.gpus_per_node;
  }
}

void set_names(const Arguments& arguments, SlurmJob& job) {
  const std::string stem = std::filesystem::path(job.config).stem().string();
  job.run_dir = arguments.has("run-dir") ? arguments.text("run-dir") : "runs/" + stem;
  job.name = arguments.has("job-name") ? arguments.text("job-name") : "fbi-" + stem;
  if (!std::regex_match(job.name, std::regex(R"([A-Za-z0-9._-]+)")))
    throw UsageError(
        concat("--job-name: expected letters, digits, dots and dashes, found '", job.name, "'"));
  if (arguments.has("program")) job.program = arguments.text("program");
  for (const auto* text : {&job.config, &job.run_dir, &job.program})
    if (text->empty() || text->find_first_of("\n\r}") != std::string::npos)
      throw UsageError(concat(
          "'", *text, "' cannot stand in a batch script: it is empty, or holds a line end or a }"));
}

/// What the configuration says about the batch; throws its problems, a batch that does not divide
/// among them. A rank that finds no GPU must not train on CPUs for a day unseen.
void check_batch(const Arguments& arguments, SlurmJob& job) {
  config::LoadOptions options;
  options.overrides = arguments.list("set");
  options.world_size = job.nodes * job.ranks_per_node;
  const auto train = config::load_run_config(job.config, options).train;
  if (job.gpus_per_node > 0 && train.device == "auto")
    options.overrides.push_back("train.device=cuda");
  for (const auto& change : options.overrides) {
    job.train_options.push_back("--set");
    job.train_options.push_back(change);
  }
  job.batch =
      concat(options.world_size, options.world_size == 1 ? " rank on " : " ranks on ", job.nodes,
             job.nodes == 1 ? " node: " : " nodes: ", train.global_batch,
             " samples per step = ", options.world_size,
             options.world_size == 1 ? " rank x " : " ranks x ", train.micro_batch, " samples x ",
             config::micro_steps_per_step(train, options.world_size), " micro-steps");
}

int run_slurm(const Arguments& arguments) {
  SlurmJob job;
  set_shape(arguments, job);
  set_names(arguments, job);
  check_batch(arguments, job);
  job.cpus_per_rank = arguments.integer("cpus-per-rank", 1, 4096);
  job.signal_seconds = arguments.integer("signal-seconds", 1, 65535);
  job.time = arguments.text("time");
  const std::int64_t limit = slurm_time_seconds(job.time);
  if (limit >= 0 && limit <= job.signal_seconds + kSlackSeconds)
    throw UsageError(concat("--time ", job.time, ": expected more than the ", job.signal_seconds,
                            " seconds of --signal-seconds and ", kSlackSeconds,
                            " by which Slurm may be early"));
  job.sbatch_options = arguments.list("sbatch");
  if (arguments.has("chain"))
    job.sbatch_options.push_back(concat("array=1-", arguments.integer("chain", 2, 10000), "%1"));
  const std::string text = sbatch_text(job);
  if (!arguments.has("out")) {
    std::cout << text;
    return 0;
  }
  check_output_file("out", arguments.text("out"), {job.config});
  write_file(arguments.text("out"), text);
  std::cout << job.batch << "\nwrote " << arguments.text("out") << "; submit it by\n  sbatch "
            << shell_word(arguments.text("out")) << "\n";
  return 0;
}

}  // namespace

Verb slurm_verb() {
  return {
      "slurm",
      "write a batch script that trains under Slurm",
      "Checks the configuration for this number of ranks, that train.global_batch divides among "
      "them included, and writes a script "
      "for sbatch. The job saves before its time limit and requeues itself until the run is "
      "finished; a job that lost a rank "
      "continues from the last checkpoint. A rank that finds no GPU is an error. --preset takes "
      "configuration, nodes and GPUs of the "
      "published runs. docs/cluster.md says more.",
      "",
      {{"preset", "NAME",
        "130m (1 node of 4 GPUs), 1.3b (4 nodes), 7b (8 nodes) or 13b (16 nodes)"},
       {"config", "FILE", "run configuration, as the job will find it"},
       {"set", "KEY=VALUE", "change a field of it, e.g. optimizer.lr=2e-4", "", false, true},
       {"nodes", "N", "nodes of the job"},
       {"gpus-per-node", "N", "GPUs of each node, one rank each; 0: ranks on CPUs"},
       {"ranks-per-node", "N", "ranks of each node, where they run on CPUs"},
       {"cpus-per-rank", "N", "processors of each rank", "8"},
       {"run-dir", "DIR",
        "where the run is kept; without it runs/ and the name of the configuration"},
       {"time", "TIME", "time limit of a job: minutes, H:M:S or D-H:M:S", "1-00:00:00"},
       {"signal-seconds", "N", "how long before the limit the run is told to save and stop", "180"},
       {"chain", "N", "N jobs one after the other instead of requeueing"},
       {"sbatch", "OPTION", "a further option of sbatch, e.g. partition=gpu or account=me", "",
        false, true},
       {"job-name", "NAME", "name of the job and of its output file"},
       {"program", "WORDS",
        "how to start this program, e.g. \"apptainer exec --nv fbi.sif fbi-llm\"", "fbi-llm"},
       {"out", "FILE", "script to write; without it standard output"}},
      {"fbi-llm slurm --preset 7b --sbatch partition=gpu --out 7b.sbatch",
       "fbi-llm slurm --config configs/130m.json --nodes 2 --gpus-per-node 8 --set "
       "train.micro_batch=16 --run-dir runs/a --out a.sbatch"},
      run_slurm};
}

}  // namespace fbi::cli
