#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fbi/distributed/traffic.h"
#include "fbi/ops/loss_sums.h"

namespace fbi::train {

/// Everything about a run's progress that is not a tensor; saved with every checkpoint.
struct TrainState {
  std::int64_t step = 0;      ///< optimizer steps done, skipped ones included
  std::int64_t updates = 0;   ///< Adam's own count, skipped steps excluded
  std::int64_t tokens = 0;    ///< predicted tokens so far
  std::int64_t position = 0;  ///< samples consumed: the data cursor
  std::int64_t skipped = 0;   ///< steps with a non-finite loss or gradient norm
  std::int64_t skipped_in_row = 0;
  bool operator==(const TrainState&) const = default;
};

/// Signs that a step changed in one binarized weight.
struct LayerFlips {
  std::string name;
  std::int64_t flips = 0;
  std::int64_t weights = 0;
};

/// One figure of an evaluation during training.
struct Measurement {
  std::string data;    ///< name of the held-out file or task
  std::string metric;  ///< perplexity, acc, acc_norm
  double value = 0;
};

/// What one optimizer step reports. Losses are means over the step's tokens on all ranks.
struct StepMetrics {
  /// Optimizer steps done with this one: 1 is the first, its lr is schedule(0).
  std::int64_t step = 0;
  std::int64_t tokens = 0;  ///< total after the step
  double loss = 0;
  double loss_next_token = 0;  ///< measured also when the objective does not use it
  double loss_distill = 0;
  double grad_norm = 0;
  double lr = 0;
  std::int64_t flips = 0;
  double flip_rate = 0;  ///< flips / binarized weights
  bool skipped = false;
  std::int64_t sample_first = 0;
  std::int64_t sample_count = 0;
  distributed::Traffic bytes_sent{};        ///< by this rank
  std::vector<LayerFlips> layer_flips;      ///< one per binarized weight
  std::vector<Measurement> evaluation;      ///< of the model after this step, where one was due
  std::vector<ops::LossSums> micro_losses;  ///< of this rank's micro-steps, sums over their tokens
};

}  // namespace fbi::train
