#pragma once

#include "parity/trace.h"

namespace fbi::parity {

/// Replays a recording with FbiLinear as a plain module: latent weights, whole-model autograd,
/// torch::optim::AdamW. This is the readable form of the published training loop.
ReplayResult replay_latent(const Trace& trace, config::Precision precision);

}  // namespace fbi::parity
