#pragma once

#include <iosfwd>
#include <span>
#include <string>
#include <string_view>

#include "parity/trace.h"
#include "parity/trainer_replay.h"

namespace fbi::parity {

/// A way to hold and train the binarized student.
struct Form {
  std::string_view name;
  ReplayResult (*replay)(const Trace& trace, config::Precision precision,
                         const TrainerOptions& options);
  /// Why the form cannot replay a recording; "" when it can.
  std::string (*declines)(const Trace& trace);
  /// How far final parameters may be from a bf16 recording (compare_bf16).
  double after_training;
};

/// All forms.
std::span<const Form> forms();

/// Replays in the recording's precision (bf16: also in fp32), prints a line per quantity, and
/// returns whether all hold. Only the trainer's form knows the options.
bool replay_and_judge(const Form& form, const Trace& trace, std::ostream& out,
                      const TrainerOptions& options = {});

}  // namespace fbi::parity
