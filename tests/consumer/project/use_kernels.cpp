// Packs the signs of a weight and counts what a changed weight flips, without LibTorch.
#include <array>
#include <bit>
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
  int flips = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    flips += std::popcount(static_cast<std::uint8_t>(before[i] ^ after[i]));
  }
  std::printf("flips: %d\n", flips);
  return flips == 2 ? 0 : 1;
}
