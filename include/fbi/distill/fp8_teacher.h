#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "fbi/nn/llama.h"
#include "fbi/ops/fp8.h"

namespace fbi::distill {

/// For ops::check_fp8.
inline constexpr ops::Fp8Choice kFp8Teacher{"teacher.dtype=fp8", "bf16"};

/// How far the teacher's next-token distributions moved when its matrices became fp8.
struct Fp8Drift {
  std::int64_t tokens = 0;  ///< measured on
  double divergence = 0;    ///< KL(before || after), nats per token
  double same_first = 0;    ///< share of tokens whose most likely next token is still the same
};

/// Keeps the matrices of the teacher's decoder layers as fp8 from here on (ops/fp8.h) and measures
/// on ids int64 [B, S] what that changes. Embedding, head and norms stay: they are 2 % of a 7B
/// model, and errors of the head go straight into what the student learns. UsageError for a
/// binarized teacher, and on a GPU for widths that are no multiples of 16.
Fp8Drift store_as_fp8(nn::LlamaForCausalLM& teacher, const at::Tensor& ids);

}  // namespace fbi::distill
