#pragma once

#include <ATen/core/Tensor.h>

namespace fbi::ops {

/// a b, [M, K] [K, N] -> [M, N], both of one dtype; no gradient. at::mm, or on the CPU in fp32
/// oneDNN, which measured 1.1 to 1.3 times faster than the BLAS of at::mm on AMD's processors, and
/// 0.9 to 1 times on Intel's, which that BLAS is made for (docs/benchmarks.md).
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);

}  // namespace fbi::ops
