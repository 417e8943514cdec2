#include "fbi/optim/schedule.h"

#include <cmath>
#include <numbers>

namespace fbi::optim {

using config::ScheduleKind;

double Schedule::at_micro_step(std::int64_t micro_step) const {
  if (micro_step < warmup_micro_steps)
    return lr * static_cast<double>(micro_step) / static_cast<double>(warmup_micro_steps);
  if (kind == ScheduleKind::kConstant) return lr;
  if (micro_step > total_micro_steps) return end_lr;
  const std::int64_t start =
      kind == ScheduleKind::kWsd ? total_micro_steps - decay_micro_steps : warmup_micro_steps;
  const std::int64_t length = total_micro_steps - start;
  // T = w: the top of the warm-up is all there is.
  if (micro_step < start || length == 0) return lr;
  const double progress = static_cast<double>(micro_step - start) / static_cast<double>(length);
  const double above_end = kind == ScheduleKind::kCosine
                               ? 0.5 * (1.0 + std::cos(std::numbers::pi * progress))
                               : 1.0 - progress;
  return end_lr + above_end * (lr - end_lr);
}

Schedule make_schedule(const config::OptimizerConfig& optimizer) {
  const std::int64_t micro_steps = optimizer.schedule_micro_steps;
  return {optimizer.lr,
          optimizer.end_lr,
          optimizer.warmup_steps * micro_steps,
          optimizer.total_steps * micro_steps,
          micro_steps,
          optimizer.schedule,
          optimizer.decay_steps * micro_steps};
}

}  // namespace fbi::optim
