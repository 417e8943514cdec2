#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "fbi/core/hash.h"
#include "fbi/core/random.h"

namespace fbi::test {

/// Normally distributed fp32 values, others for every key and seed.
inline at::Tensor random_tensor(const std::vector<std::int64_t>& shape, const std::string& key,
                                double stddev = 1, std::uint64_t seed = 9) {
  at::Tensor out = at::empty(shape, at::kFloat);
  fill_normal({out.data_ptr<float>(), static_cast<std::size_t>(out.numel())}, seed, hash64(key), 0,
              0.0, stddev);
  return out;
}

}  // namespace fbi::test
