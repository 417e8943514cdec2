#include "fbi/train/dry_run.h"

#include "fbi/checkpoint/run_directory.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/system.h"
#include "fbi/data/training_data.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/train/evaluation.h"
#include "train/data_use.h"
#include "train/identity.h"
#include "train/session.h"
#include "train/tokenizers.h"

namespace fbi::train {
namespace {

/// How often a run may read its data before one wonders.
constexpr double kManyEpochs = 10;

std::string note(const std::string& text) {
  return concat("note        ", text, "\n");
}

std::string data_text(const config::RunConfig& config) {
  const auto data = data::open_training_data(config.data, config.train, config.model.vocab_size);
  check_tokenizers(config, *data);
  std::string text;
  for (const auto& [corpus, epochs] : data_use(config.train, *data, /*count_samples=*/true)) {
    text += concat("data        ", corpus, "\n");
    if (epochs <= kManyEpochs) continue;
    text += note(config.data.weights.empty()
                     ? "that is often: train.steps times train.global_batch are meant for more data"
                     : "that is often: its weight is meant for more data");
  }
  return text;
}

std::string schedule_text(const config::RunConfig& config) {
  const auto& [steps, total] = std::pair(config.train.steps, config.optimizer.total_steps);
  if (config.optimizer.warmup_steps >= steps)
    return note(concat("the learning rate is still rising when the run ends: train.steps is ",
                       steps, ", optimizer.warmup_steps ", config.optimizer.warmup_steps));
  if (total > 2 * steps)
    return note(concat("the learning rate is still high when the run ends: train.steps is ", steps,
                       ", optimizer.total_steps ", total, " (0: as long as the run)"));
  return {};
}

/// Also of a machine on which nothing is to be trained: the run may be meant for another one.
std::string machine_text(const Estimate& estimate, Processor processor) {
  const auto needed = static_cast<std::uint64_t>(total_bytes(estimate.memory.peak().bytes));
  const std::uint64_t here = physical_memory_bytes();
  if (processor != Processor::kCpu || here == 0 || needed <= here) return {};
  return note(concat("this machine has ", format_bytes(here),
                     " of memory, which is too little: lower train.micro_batch, set "
                     "train.recompute=true, or use another machine"));
}

/// A run that has a checkpoint goes on from it.
void check_start(config::RunConfig config, RunOptions options, Processor processor) {
  const checkpoint::RunPaths paths{options.directory};
  const auto resume = checkpoint::Resume::from_text(options.resume);
  checkpoint::require_usable(paths, resume);
  const auto newest = formats::open_first_valid(
      checkpoint::checkpoints_to_try(paths, resume), [](const std::filesystem::path& folder) {
        return std::make_unique<formats::CheckpointReader>(folder, /*verify_hash=*/false);
      });
  const auto saved = newest ? checkpoint_config(*newest) : saved_run_config(options.directory);
  const at::Device device(processor == Processor::kGpu ? at::kCUDA : at::kCPU);
  keep_sign_products(config, options, saved, device);
  if (saved) check_identity(*saved, config, options.allow_change);
  if (!newest) open_initial_weights(config);
}

std::string disk_text(const config::RunConfig& config, const Estimate& estimate,
                      const std::filesystem::path& directory) {
  const auto needed = static_cast<std::uint64_t>(estimate.disk_bytes);
  const std::uint64_t free = free_disk_bytes(directory);
  if (needed > free)
    throw DiskError(concat(directory.string(), ": ", config.checkpoint.keep,
                           " checkpoints and the one being written need ", format_bytes(needed),
                           ", free are ", format_bytes(free),
                           "; lower checkpoint.keep or use another disk"));
  return concat(disk_report(config, estimate), "            free are ", format_bytes(free), "\n");
}

}  // namespace

std::string dry_run(const config::RunConfig& config, const RunOptions& options, int world_size,
                    Processor processor) {
  check_start(config, options, processor);
  const std::string data = data_text(config);
  const RunEvaluation evaluation(config, /*rank=*/0, /*size=*/1);
  const auto teacher = stored_teacher(config, processor);
  const Estimate needs = estimate(config, teacher, world_size, processor);
  return model_report(config.model) + teacher_report(teacher, config.teacher.path) + data +
         run_report(config, needs) + schedule_text(config) + memory_report(needs) +
         machine_text(needs, processor) + traffic_report(needs) + flops_report(needs) +
         disk_text(config, needs, options.directory) +
         "dry run: all checks passed, nothing was trained\n";
}

}  // namespace fbi::train
