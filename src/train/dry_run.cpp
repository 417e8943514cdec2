#include "fbi/train/dry_run.h"

#include "fbi/checkpoint/run_directory.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/system.h"
#include "fbi/data/training_data.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/ops/parallel.h"
#include "fbi/train/evaluation.h"
#include "fbi/train/metrics.h"
#include "train/data_use.h"
#include "train/identity.h"
#include "train/matrix_rate.h"
#include "train/session.h"
#include "train/tokenizers.h"

namespace fbi::train {
namespace {

/// How often a run may read its data before one wonders.
constexpr double kManyEpochs = 10;
constexpr double kLongTime = 7 * 86400;  // seconds

std::string note(const std::string& text) {
  return concat("note        ", text, "\n");
}

std::string data_text(const config::RunConfig& config) {
  const auto data = data::open_training_data(config.data, config.train, config.model.vocab_size);
  check_tokenizers(config, *data);
  std::string text;
  for (const auto& [corpus, epochs] : data_use(config, *data)) {
    text += concat("data        ", corpus, "\n");
    if (epochs <= kManyEpochs) continue;
    text += note(config.data.weights.empty()
                     ? "that is often: train.steps times train.global_batch are meant for more data"
                     : "that is often: its weight is meant for more data");
  }
  return text;
}

std::string schedule_text(const config::RunConfig& config) {
  const config::OptimizerConfig& optimizer = config.optimizer;
  const auto& [steps, total] = std::pair(config.train.steps, optimizer.total_steps);
  if (optimizer.warmup_steps >= steps)
    return note(concat("the learning rate is still rising when the run ends: train.steps is ",
                       steps, ", optimizer.warmup_steps ", optimizer.warmup_steps));
  const bool wsd = optimizer.schedule == config::ScheduleKind::kWsd;
  const std::int64_t falling = wsd ? optimizer.decay_steps : total;
  if (optimizer.schedule == config::ScheduleKind::kConstant || total - steps <= falling / 2)
    return {};
  return note(concat("the learning rate is still high when the run ends: train.steps is ", steps,
                     ", optimizer.total_steps ", total, " (0: as long as the run)",
                     wsd ? concat(", optimizer.decay_steps ", falling) : ""));
}

/// Also of a machine on which nothing is to be trained: the run may be meant for another one.
std::string machine_text(const estimate::Estimate& needs, estimate::Processor processor) {
  const auto needed = static_cast<std::uint64_t>(estimate::total_bytes(needs.memory.peak().bytes));
  const auto ranks = static_cast<std::uint64_t>(needs.world_size);
  const std::uint64_t here = usable_memory_bytes();
  if (processor != estimate::Processor::kCpu || here == 0 || needed * ranks <= here) return {};
  return note(
      concat("this machine has ", format_bytes(here), " of memory, ",
             needed > here ? "which is too little" : concat("too little for all ", ranks, " ranks"),
             ": lower train.micro_batch, set train.recompute=true, or use ",
             needed > here ? "another machine" : "several machines"));
}

/// As long as all arithmetic after `first_step` would take as dense products, at the rate that this
/// machine has now. Small models take up to twice as long, for what is no product.
std::string time_text(const config::RunConfig& config, std::int64_t first_step,
                      const estimate::Estimate& needs, estimate::Processor processor) {
  const std::int64_t steps = needs.steps - first_step;
  const double operations =
      needs.flops.total() * static_cast<double>(needs.tokens_per_step) * static_cast<double>(steps);
  if (processor != estimate::Processor::kCpu || needs.world_size > 1 || operations < kLongRun)
    return {};
  ops::set_threads(config.train.threads);
  const bool bf16 = config.train.precision == config::Precision::kBf16;
  const double rate = measure_matrix_rate(bf16 ? at::kBFloat16 : at::kFloat, at::kCPU);
  const double seconds = operations / rate;
  std::string text = concat(
      "time        at least about ", format_duration(seconds), " for ",
      first_step == 0 ? "all steps" : concat("the ", steps, " steps after step ", first_step),
      ", if matrix products stay at the ", flops_text(rate), " just measured here\n");
  if (seconds > kLongTime)
    text += note("that is long: a smaller teacher or student, fewer train.steps or GPUs help");
  return text;
}

/// A run that has a checkpoint goes on from it. Returns the step.
std::int64_t check_start(config::RunConfig config, RunOptions options,
                         estimate::Processor processor) {
  const checkpoint::RunPaths paths{options.directory};
  const auto resume = checkpoint::Resume::from_text(options.resume);
  checkpoint::require_usable(paths, resume);
  const auto newest = formats::open_first_valid(
      checkpoint::checkpoints_to_try(paths, resume), [](const std::filesystem::path& folder) {
        return std::make_unique<formats::CheckpointReader>(folder, /*verify_hash=*/false);
      });
  const auto saved = newest ? checkpoint_config(*newest) : saved_run_config(options.directory);
  const at::Device device(processor == estimate::Processor::kGpu ? at::kCUDA : at::kCPU);
  keep_sign_products(config, options, saved, device);
  check_inputs(newest.get(), saved, config, options.allow_change);
  if (newest && !checkpoint::is_of_run(paths, newest->path())) check_branch(*newest, config.train);
  if (newest) return newest->manifest().step;
  open_initial_weights(config, *distributed::make_single_rank());
  return 0;
}

std::string disk_text(const config::RunConfig& config, const estimate::Estimate& needs,
                      const std::filesystem::path& directory) {
  const auto stored = formats::list_checkpoints(checkpoint::RunPaths{directory}.checkpoints());
  const std::int64_t missing =
      std::max<std::int64_t>(needs.kept_checkpoints - std::ssize(stored), 0);
  const auto needed = static_cast<std::uint64_t>(needs.bytes_of_checkpoints(missing + 1));
  const std::uint64_t free = free_disk_bytes(directory);
  if (needed > free)
    throw DiskError(concat(
        directory.string(), ": ", missing, " more checkpoints and the one being written need ",
        format_bytes(needed), ", free are ", format_bytes(free), "; lower checkpoint.keep",
        config.checkpoint.keep_every > 0 ? ", raise checkpoint.keep_every" : "",
        " or use another disk"));
  return concat(estimate::disk_report(needs), "            free are ", format_bytes(free), "\n");
}

}  // namespace

std::string dry_run(const config::RunConfig& config, const RunOptions& options, int world_size,
                    estimate::Processor processor) {
  const std::int64_t first_step = check_start(config, options, processor);
  const std::string data = data_text(config);
  const RunEvaluation evaluation(config, /*rank=*/0, /*size=*/1);
  const auto teacher = estimate::stored_teacher(config, world_size, processor);
  const estimate::Estimate needs = estimate::estimate(config, teacher, world_size, processor);
  return estimate::model_report(config.model) +
         estimate::teacher_report(teacher, config.teacher.path) + data +
         estimate::run_report(config, needs) + schedule_text(config) +
         time_text(config, first_step, needs, processor) + estimate::memory_report(needs) +
         machine_text(needs, processor) + estimate::traffic_report(needs) +
         estimate::flops_report(needs) + disk_text(config, needs, options.directory) +
         "dry run: all checks passed, nothing was trained\n";
}

}  // namespace fbi::train
