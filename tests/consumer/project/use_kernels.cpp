// Packs the signs of a weight and counts what a changed weight flips, without LibTorch.
#include <array>
#include <cstdint>
#include <cstdio>

#include "fbi/core/parallel.h"
#include "fbi/kernels/binary_matrix.h"

int main() {
  namespace kernels = fbi::kernels;
  constexpr kernels::MatrixShape kShape{2, 9};
  std::array<float, 18> weight;
  weight.fill(1.0f);
  std::array<std::uint8_t, 4> before, after;
  fbi::SerialFor serial;
  kernels::pack_signs(weight.data(), kShape, before.data(), serial);
  weight[4] = weight[17] = -0.5f;
  kernels::pack_signs(weight.data(), kShape, after.data(), serial);
  const auto flips = kernels::count_flips(before.data(), after.data(), kShape);
  std::printf("flips: %lld\n", static_cast<long long>(flips));
  return flips == 2 ? 0 : 1;
}
