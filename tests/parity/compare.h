#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "parity/trace.h"

namespace fbi::parity {

/// One line of the verdict: the worst error of a quantity against the range it must lie in.
struct Check {
  std::string quantity;
  double value = 0;
  double at_least = 0;  ///< above 0 only for the lower bound of the two-sided comparison of bf16
  double at_most = 0;
  std::string where;  ///< tensor or step of the worst error
  bool passed() const { return value >= at_least && value <= at_most; }  // NaN fails
};

/// A replay in the recording's fp32 arithmetic against the recording, with the fixed tolerances of
/// the published traces.
std::vector<Check> compare(const Trace& trace, const ReplayResult& replay);

/// A bf16 replay against a bf16 recording, which is a statistical reference. The scale of each
/// quantity is the distance D between the recording and our own fp32 replay of it: bf16 must lie
/// within 1.5 D of the recording, after training within `after_training` D, and differ from our
/// fp32 replay by 0.3 to 3 D (plain fp32 would satisfy the first alone); its logits must be bf16
/// values.
std::vector<Check> compare_bf16(const Trace& trace, const ReplayResult& bf16,
                                const ReplayResult& fp32, double after_training);

/// Prints one line per check and returns whether all passed.
bool print_checks(std::ostream& out, const std::vector<Check>& checks);

}  // namespace fbi::parity
