#pragma once

#include "cli/terminal.h"
#include "fbi/train/run.h"

namespace fbi::cli {

/// Shows a training run: at the first step and every log.every_steps one line through the log
/// (terminal and train.log) and a second one with details (train.log alone), and between them a
/// progress bar on a terminal.
class RunDisplay final : public train::RunObserver {
 public:
  /// Of `world_size` ranks that run together.
  explicit RunDisplay(int world_size) : world_size_(world_size) {}
  void on_start(const config::RunConfig& config, std::int64_t first_step) override;
  void on_step(const train::StepMetrics& metrics, const train::Pace& pace) override;
  void on_checkpoint(std::int64_t step, const std::filesystem::path& folder) override;
  void on_end() override { bar_.clear(); }

 private:
  std::string line(const train::StepMetrics& metrics, const train::Pace& pace) const;
  std::string details(const train::StepMetrics& metrics, const train::Pace& pace) const;

  int world_size_;
  config::RunConfig config_;
  std::int64_t first_step_ = 0;
  ProgressBar bar_;
};

}  // namespace fbi::cli
