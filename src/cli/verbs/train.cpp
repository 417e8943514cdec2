#include <algorithm>
#include <chrono>
#include <iostream>

#include "cli/ranks.h"
#include "cli/run_display.h"
#include "cli/verbs.h"
#include "fbi/config/describe.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/distributed/agreement.h"
#include "fbi/distributed/communicator.h"
#include "fbi/estimate/estimate.h"
#include "fbi/ops/device.h"
#include "fbi/train/dry_run.h"
#include "fbi/train/run.h"

namespace fbi::cli {
namespace {

std::string command_line(const Arguments& arguments) {
  std::string line = concat("fbi-llm train --config ", arguments.text("config"));
  for (const auto& change : arguments.list("set")) line += " --set " + change;
  line += " --run-dir " + arguments.text("run-dir") + " --resume " + arguments.text("resume");
  for (const auto& key : arguments.list("allow-change")) line += " --allow-change " + key;
  return line;
}

std::int64_t profile_steps(const Arguments& arguments) {
  const std::int64_t steps = arguments.integer("profile-steps");
  if (steps < 0)
    throw UsageError(concat("--profile-steps ", steps,
                            " is negative; give the number of steps to trace, 0 for none"));
  return steps;
}

/// The ranks that --dry-run is about: N GPUs of a cluster, or this process and those beside it.
std::int64_t planned_ranks(const Arguments& arguments, const distributed::Rendezvous& rendezvous) {
  if (!arguments.has("gpus")) return rendezvous.world_size;
  if (!arguments.has("dry-run"))
    throw UsageError(
        "--gpus says what --dry-run is to plan for; the ranks of a run are started by fbi-llm "
        "launch, srun, mpirun or torchrun");
  return arguments.integer("gpus", 1, 1'000'000);
}

estimate::Processor planned_processor(const Arguments& arguments, const config::RunConfig& config,
                                      int local_rank) {
  if (arguments.has("gpus")) return estimate::planned_processor(config);
  return ops::choose_device(config.train.device, local_rank).is_cuda() ? estimate::Processor::kGpu
                                                                       : estimate::Processor::kCpu;
}

/// UsageError for a key of --allow-change that is no field's.
void check_fields(const std::vector<std::string>& keys) {
  const auto fields = config::list_fields();
  for (const std::string& key : keys) {
    if (std::ranges::count(fields, key, &config::FieldInfo::key) > 0) continue;
    try {
      config::explain(key);
    } catch (const UsageError& unknown) {
      throw UsageError(concat("--allow-change: ", unknown.what()));
    }
    throw UsageError(concat("--allow-change: ", key, " is a section; name the field in it"));
  }
}

int run_train(const Arguments& arguments) {
  const auto rendezvous = discover_rank(arguments);
  quieten_other_ranks(rendezvous);
  const std::filesystem::path directory = arguments.text("run-dir");
  const auto continued = train::continued_run_config(directory, arguments.text("resume"));
  config::LoadOptions load;
  load.overrides = arguments.list("set");
  load.world_size = planned_ranks(arguments, rendezvous);
  load.continued = continued ? &*continued : nullptr;
  check_fields(arguments.list("allow-change"));
  const auto config = config::load_run_config(arguments.text("config"), load);
  const train::RunOptions options{directory, arguments.text("resume"),
                                  arguments.list("allow-change"), command_line(arguments),
                                  profile_steps(arguments)};
  if (arguments.has("dry-run")) {
    const auto processor = planned_processor(arguments, config, rendezvous.local_rank);
    const bool on_gpus = processor == estimate::Processor::kGpu;
    if (load.world_size > 1) choose_backend(config.parallel, on_gpus);
    std::cout << train::dry_run(config, options, static_cast<int>(load.world_size), processor);
    return 0;
  }
  const auto communicator = join_ranks(rendezvous, config);
  RunDisplay display(communicator->size());
  train::RunOutcome outcome{};
  distributed::run_or_give_up(*communicator, [&] {
    outcome = train::run_training(config, options, *communicator, display);
  });
  return static_cast<int>(outcome == train::RunOutcome::kStopped ? ExitCode::kStopped
                                                                 : ExitCode::kOk);
}

}  // namespace

Verb train_verb() {
  Verb verb{
      "train",
      "train a model: distil a 1-bit student, or train a dense one",
      "Trains as the configuration says and writes everything to the run directory: "
      "config.json, metrics.jsonl, train.log and "
      "checkpoints/. Stopping it (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2) saves a "
      "checkpoint and "
      "exits with 75; --resume auto continues, also after a crash, as if nothing had happened: "
      "on CPUs bit for bit. model.binarize=none trains a dense model, e.g. a teacher.",
      "",
      {{"config", "FILE", "run configuration, e.g. configs/130m.json", "", true},
       {"set", "KEY=VALUE", "change a field of it, e.g. optimizer.lr=2e-4", "", false, true},
       {"run-dir", "DIR", "where the run is kept", "", true},
       {"resume", "WHAT",
        "none: the folder must be new; auto: continue from the newest valid checkpoint; or a "
        "checkpoint folder",
        "none"},
       {"allow-change", "KEY", "let this field differ from the run that is continued", "", false,
        true},
       {"profile-steps", "N",
        "trace the first N steps after the start into trace.json of the run directory, for "
        "Perfetto or chrome://tracing; on a GPU these "
        "steps wait for each part and are slower",
        "0"},
       {"dry-run", "",
        "check configuration, data, teacher, memory and disk; train nothing, write nothing"},
       {"gpus", "N",
        "with --dry-run: plan for N GPUs, one rank each, that this machine need not have"}},
      {"fbi-llm train --config configs/130m.json --set optimizer.lr=2e-4 --run-dir runs/a "
       "--resume auto",
       "fbi-llm train --config configs/7b.json --run-dir runs/7b --dry-run --gpus 32"},
      run_train};
  for (auto& option : rank_options()) verb.options.push_back(std::move(option));
  verb.heeds_stop = true;
  verb.memory_hint =
      "try a smaller train.micro_batch, train.loss_chunk_tokens or train.recompute=true";
  return verb;
}

}  // namespace fbi::cli
