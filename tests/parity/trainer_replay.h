#pragma once

#include "fbi/config/run_config.h"
#include "parity/trace.h"

namespace fbi::parity {

/// How the trainer's form does its work; nothing of it may matter beyond rounding.
struct TrainerOptions {
  int ranks = 1;  ///< threads, over which every micro-batch is divided
  bool recompute = false;
  std::string sign_products = "auto";
  std::string working_copy = "layer";
  bool operator==(const TrainerOptions&) const = default;
};

/// "2 ranks, recompute", of what is not as by default; "" when all is.
std::string to_string(const TrainerOptions& options);

/// Replays a recording through the trainer's own step: packed signs, deferred straight-through
/// gradient, sign-emitting AdamW. `precision` is that of the matrix products. The result is rank
/// 0's.
ReplayResult replay_trainer(const Trace& trace, config::Precision precision,
                            const TrainerOptions& options = {});

}  // namespace fbi::parity
