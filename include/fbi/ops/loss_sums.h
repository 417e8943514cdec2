#pragma once

namespace fbi::ops {

/// Sums over tokens, natural logarithm.
struct LossSums {
  double next_token = 0;
  double distill = 0;
};

}  // namespace fbi::ops
