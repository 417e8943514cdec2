#pragma once

#include <deque>
#include <map>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/estimate/estimate.h"
#include "fbi/nn/llama.h"
#include "fbi/train/metrics.h"
#include "fbi/train/timeline.h"

namespace fbi::train {

/// Turns the seconds of steps into what a run reports about its speed.
class PaceMeter {
 public:
  /// Of one of `world_size` ranks; `config` is resolved, `teacher` null without distillation.
  /// Measures how fast the student's device multiplies matrices when the run's arithmetic takes so
  /// much longer that it does not matter.
  PaceMeter(const config::RunConfig& config, const nn::LlamaForCausalLM& student,
            const nn::LlamaForCausalLM* teacher, int world_size);

  /// `phases`: what the timeline told of this step and the pause before it.
  Pace add(double step_seconds, double cpu_seconds, const PhaseSeconds& phases,
           std::int64_t steps_left);

  /// Measured operations per second by type of the products ("fp32", "fp16", "bf16", "fp8"); empty:
  /// not measured.
  const std::map<std::string, double>& matrix_rates() const { return matrix_rates_; }

 private:
  double matrix_rate(const nn::LlamaOptions& options);
  double fp8_rate(at::Device device);

  double step_tokens_;  ///< of all ranks
  double rank_tokens_;
  estimate::TokenFlops flops_;
  std::map<std::string, double> matrix_rates_;
  double products_seconds_ = 0;  ///< what the arithmetic of a step would take at the measured rates
  std::deque<double> recent_;    ///< seconds of the last steps
  double pauses_ = 0;  ///< seconds of evaluations and checkpoints between the steps so far
  std::int64_t steps_ = 0;
};

}  // namespace fbi::train
