#pragma once

#include "parity/trace.h"

namespace fbi::parity {

/// Replays a recording through the trainer's own step: packed signs, deferred straight-through
/// gradient, sign-emitting AdamW. `precision` is that of the matrix products; `recompute` and the
/// size of the loss chunks must not matter beyond rounding.
ReplayResult replay_trainer(const Trace& trace, config::Precision precision,
                            bool recompute = false);

/// The same with every micro-batch divided over the ranks of a group of threads; the result is rank
/// 0's.
ReplayResult replay_trainer_on_ranks(const Trace& trace, config::Precision precision, int ranks);

}  // namespace fbi::parity
