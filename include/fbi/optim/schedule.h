#pragma once

#include <cstdint>

#include "fbi/config/run_config.h"

namespace fbi::optim {

/// Learning rate, a pure function of the step. The published code sets it per micro-step m:
///   f(m) = lr·m/w for m < w;  end_lr for m > T;  otherwise end_lr + ½(1 + cos(π(m-w)/(T-w)))(lr -
///   end_lr)
/// and an optimizer step k = 0, 1, … of A micro-steps uses that of its last one, f((k+1)·A - 1).
/// Other kinds differ after the warm-up alone: linear has 1 - (m-w)/(T-w) for the half cosine; wsd
/// is lr before T-D and falls linearly from there to T; constant is lr for ever.
struct Schedule {
  double lr = 0;
  double end_lr = 0;
  std::int64_t warmup_micro_steps = 0;  ///< w
  std::int64_t total_micro_steps = 0;   ///< T; T = w and w = 0 are legal
  std::int64_t micro_steps = 1;         ///< A
  config::ScheduleKind kind = config::ScheduleKind::kCosine;
  std::int64_t decay_micro_steps = 0;  ///< D, of wsd

  double at_micro_step(std::int64_t micro_step) const;
  double at_step(std::int64_t step) const { return at_micro_step((step + 1) * micro_steps - 1); }
};

/// From a resolved configuration (total_steps and schedule_micro_steps filled in).
Schedule make_schedule(const config::OptimizerConfig& optimizer);

}  // namespace fbi::optim
