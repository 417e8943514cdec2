#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/distill/objective.h"
#include "fbi/distributed/communicator.h"
#include "fbi/nn/layerwise_pass.h"
#include "fbi/nn/llama.h"
#include "fbi/optim/adamw.h"
#include "fbi/optim/schedule.h"

namespace fbi::train {

/// Everything about a run's progress that is not a tensor; saved with every checkpoint.
struct TrainState {
  std::int64_t step = 0;            ///< optimizer steps done, skipped ones included
  std::int64_t updates = 0;         ///< Adam's own count, skipped steps excluded
  std::int64_t tokens = 0;          ///< predicted tokens so far
  std::int64_t position = 0;        ///< samples consumed: the data cursor
  std::int64_t skipped = 0;         ///< steps with a non-finite loss or gradient norm
  std::int64_t skipped_in_row = 0;
  bool operator==(const TrainState&) const = default;
};

/// What one optimizer step reports. Losses are means over the step's tokens on all ranks.
struct StepMetrics {
  std::int64_t step = 0;            ///< 0-based number of the step
  std::int64_t tokens = 0;          ///< total after the step
  double loss = 0;
  double loss_next_token = 0;       ///< meaningless when the objective does not use it
  double loss_distill = 0;
  double grad_norm = 0;
  double lr = 0;
  std::int64_t flips = 0;
  double flip_rate = 0;             ///< flips / binarized weights
  bool skipped = false;
  std::int64_t sample_first = 0;
  std::int64_t sample_count = 0;
  std::vector<std::pair<std::string, std::int64_t>> layer_flips;  ///< per binarized weight
};

/// Fills ids [count, seq_len + 1] with the samples [first, first + count) of the run's order.
using SampleReader = std::function<void(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids)>;

/// The parts of a run that the trainer drives; all outlive it. `teacher` is null for next-token training.
struct TrainerParts {
  nn::LlamaForCausalLM& student;
  nn::LlamaForCausalLM* teacher;
  optim::AdamW& optimizer;
  distributed::Communicator& communicator;
  SampleReader read_samples;
};

/// One optimizer step at a time. The order of work in step() is the whole training algorithm; nothing is hooked in elsewhere.
class Trainer {
 public:
  Trainer(TrainerParts parts, const config::ObjectiveConfig& objective, const config::TrainConfig& train,
          const optim::Schedule& schedule);

  StepMetrics step();

  /// Forward and backward of micro-step `index` of the current step; adds to the gradients and returns the loss sums.
  ops::LossSums micro_step(std::int64_t index);

  const TrainState& state() const { return state_; }
  void set_state(const TrainState& state);
  std::int64_t micro_steps() const { return micro_steps_; }

 private:
  /// True on all ranks or on none.
  bool agree_finite(double loss, double grad_norm);
  ops::LossSums reduce_losses(const ops::LossSums& sums);
  void report_flips(StepMetrics& metrics) const;

  TrainerParts parts_;
  distill::Objective objective_;
  config::TrainConfig train_;
  optim::Schedule schedule_;
  nn::LayerwisePass pass_;
  std::int64_t micro_steps_;
  TrainState state_;
};

}  // namespace fbi::train
