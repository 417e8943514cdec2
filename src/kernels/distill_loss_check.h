#pragma once

#include <cmath>

#include "fbi/core/error.h"

namespace fbi::kernels {

/// What the arguments of distill_loss must hold on every device; UsageError.
template <class Args>
void check_loss_arguments(const Args& args) {
  if (!(args.temperature > 0) || !std::isfinite(args.temperature)) {
    throw UsageError(
        concat("distillation temperature: expected a positive number, found ", args.temperature));
  }
  if (args.distill != 0 && (!args.teacher_logits || !args.loss_distill)) {
    throw UsageError(concat("distillation weight ", args.distill,
                            ": expected teacher logits and a place for the loss, found none"));
  }
  if ((args.next_token != 0 && !args.loss_next) || (args.loss_next && !args.targets)) {
    throw UsageError(concat("next-token weight ", args.next_token,
                            ": expected targets and a place for the loss, found none"));
  }
}

}  // namespace fbi::kernels
