#include "fbi/train/dry_run.h"

#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/system.h"
#include "fbi/data/training_data.h"
#include "fbi/formats/checkpoint_reader.h"
#include "train/session.h"

namespace fbi::train {
namespace {

std::string data_text(const config::RunConfig& config) {
  const auto data = data::open_training_data(config.data, config.train, config.model.vocab_size);
  const std::int64_t samples = data->samples_per_epoch();
  const double epochs = static_cast<double>(config.train.steps * config.train.global_batch) /
                        static_cast<double>(samples);
  return concat("data        ", samples, " samples of ", data->ids_per_sample(), " ids in ",
                data->files().size(), " file(s); the run reads them ", epochs, " times\n");
}

/// A run that has a checkpoint goes on from it.
void check_start(const config::RunConfig& config, const std::filesystem::path& directory) {
  const bool begins = formats::list_checkpoints(directory / "checkpoints").empty();
  if (begins) open_initial_weights(config);
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

std::string dry_run(const config::RunConfig& config, const std::filesystem::path& run_directory,
                    int world_size, Processor processor) {
  const std::string data = data_text(config);
  check_start(config, run_directory);
  const auto teacher = stored_teacher(config, processor);
  const Estimate needs = estimate(config, teacher, world_size, processor);
  return model_report(config.model) + teacher_report(teacher, config.teacher.path) + data +
         run_report(config, needs) + memory_report(needs) + traffic_report(needs) +
         flops_report(needs) + disk_text(config, needs, run_directory) +
         "dry run: all checks passed, nothing was trained\n";
}

}  // namespace fbi::train
