#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "fbi/config/run_config.h"
#include "fbi/distill/objective.h"
#include "fbi/distill/teacher.h"
#include "fbi/distributed/communicator.h"
#include "fbi/nn/layerwise_pass.h"
#include "fbi/nn/llama.h"
#include "fbi/optim/adamw.h"
#include "fbi/optim/schedule.h"
#include "fbi/train/step_metrics.h"
#include "fbi/train/timeline.h"

namespace fbi::train {

/// Fills ids [count, seq_len + 1] with the samples [first, first + count) of the run's order.
using SampleReader =
    std::function<void(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids)>;

/// The parts of a run that the trainer drives; all outlive it. `teacher` is null for next-token
/// training.
struct TrainerParts {
  nn::LlamaForCausalLM& student;
  distill::Teacher* teacher;
  optim::AdamW& optimizer;
  distributed::Communicator& communicator;
  SampleReader read_samples;
};

/// Of a student that so many ranks train.
constexpr nn::LayerGradients layer_gradients(int ranks, bool shard_gradients) {
  if (ranks == 1) return nn::LayerGradients::kOnDemand;
  return shard_gradients ? nn::LayerGradients::kOneLayer : nn::LayerGradients::kAll;
}

/// One optimizer step at a time. The order of work in step() is the whole training algorithm;
/// nothing is hooked in elsewhere.
class Trainer {
 public:
  Trainer(TrainerParts parts, const config::ObjectiveConfig& objective,
          const config::TrainConfig& train, const optim::Schedule& schedule,
          bool shard_gradients = false);

  StepMetrics step();

  /// Forward and backward of micro-step `index` of the current step; adds to the gradients and
  /// returns the sums of the losses as ops::distill_loss does. Does not wait for a GPU.
  at::Tensor micro_step(std::int64_t index);

  const TrainState& state() const { return state_; }
  void set_state(const TrainState& state);
  Timeline& timeline() { return timeline_; }  ///< where its time goes

 private:
  void report_losses(StepMetrics& metrics, const at::Tensor& sums,
                     const std::vector<at::Tensor>& micro_sums) const;
  void report_flips(StepMetrics& metrics) const;

  TrainerParts parts_;
  distill::Objective objective_;
  config::TrainConfig train_;
  optim::Schedule schedule_;
  nn::LayerwisePass pass_;
  std::int64_t micro_steps_;
  bool shard_gradients_;  ///< sum gradients over ranks after every micro-step, not only after the
                          ///< last
  TrainState state_;
  Timeline timeline_;
};

}  // namespace fbi::train
