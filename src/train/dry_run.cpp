#include "fbi/train/dry_run.h"

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/system.h"
#include "fbi/data/training_data.h"
#include "fbi/distill/teacher.h"

namespace fbi::train {
namespace {

constexpr std::int64_t kStateBytes = 12;  // latent weight and two moments, fp32

std::string model_text(const config::ModelConfig& model) {
  const auto size = config::parameter_counts(model);
  return concat("model       ", format_count(size.total()), " parameters: ", format_count(size.binarized), " at one bit, ",
                format_count(size.scales), " scales and shifts, ", format_count(size.dense), " full precision\n");
}

std::string batch_text(const config::TrainConfig& train, std::int64_t total_steps, int world_size) {
  const std::int64_t step_tokens = train.global_batch * train.seq_len;
  return concat("step        ", train.global_batch, " samples = ", world_size, " rank(s) x ",
                config::micro_steps_per_step(train, world_size), " micro-steps x ", train.micro_batch, "; ",
                format_count(step_tokens), " tokens\nrun         ", train.steps, " steps of a schedule of ", total_steps, ", ",
                format_count(step_tokens * train.steps), " tokens\n");
}

std::string data_text(const config::RunConfig& config) {
  const auto data = data::open_training_data(config.data, config.train, config.model.vocab_size);
  const std::int64_t samples = data->samples_per_epoch();
  const double epochs = static_cast<double>(config.train.steps * config.train.global_batch) / static_cast<double>(samples);
  return concat("data        ", samples, " samples of ", data->ids_per_sample(), " ids in ", data->files().size(),
                " file(s); the run reads them ", epochs, " times\n");
}

std::string teacher_text(const config::RunConfig& config) {
  if (config.objective.distill == 0) return "teacher     none (next-token training)\n";
  const auto model = distill::check_teacher(config.teacher, config.model, config.train);
  return concat("teacher     ", config.teacher.path, ", ", format_count(config::parameter_counts(model).total()), " parameters\n");
}

std::string memory_text(const config::ModelConfig& model) {
  const auto size = config::parameter_counts(model);
  const std::int64_t state = kStateBytes * size.total();
  const std::int64_t working = size.binarized / 8 + 4 * size.total();  // bits and fp32 gradients
  return concat("memory      ", format_bytes(state), " latent weights and moments, ", format_bytes(working),
                " bits and gradients; activations and teacher come on top\n");
}

std::string disk_text(const config::RunConfig& config, const std::filesystem::path& directory) {
  const std::uint64_t one = static_cast<std::uint64_t>(kStateBytes * config::parameter_counts(config.model).total());
  const std::uint64_t needed = one * static_cast<std::uint64_t>(config.checkpoint.keep + 1);
  const std::uint64_t free = free_disk_bytes(directory);
  if (needed > free)
    throw DiskError(concat(directory.string(), ": ", config.checkpoint.keep, " checkpoints and the one being written need ",
                           format_bytes(needed), ", free are ", format_bytes(free), "; lower checkpoint.keep or use another disk"));
  return concat("disk        ", format_bytes(one), " per checkpoint, ", format_bytes(needed), " for ", config.checkpoint.keep,
                " and one being written; ", format_bytes(free), " free\n");
}

}  // namespace

std::string dry_run(const config::RunConfig& config, const std::filesystem::path& run_directory, int world_size) {
  return model_text(config.model) + batch_text(config.train, config.optimizer.total_steps, world_size) + data_text(config) +
         teacher_text(config) + memory_text(config.model) + disk_text(config, run_directory) +
         "dry run: all checks passed, nothing was trained\n";
}

}  // namespace fbi::train
