#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/index_select.h>

#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {

at::Tensor embedding(const at::Tensor& ids, const ParameterSlot& slot) {
  return slot.value.index_select(0, ids);
}

void accumulate_embedding_gradient(ParameterSlot& slot, const at::Tensor& ids, const at::Tensor& dx,
                                   std::int64_t pad_token_id) {
  if (dx.is_cuda())
    return gpu::accumulate_embedding_gradient(slot.grad, ids.contiguous(), dx.contiguous(),
                                              pad_token_id);
  const at::Tensor rows = dx.to(at::kFloat).contiguous();
  const std::int64_t width = rows.size(1);
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* source = rows.const_data_ptr<float>();
  auto* target = slot.grad.data_ptr<float>();
  // Threads take columns, so that every sum runs over the tokens in their order.
  torch_parallel_for().run(0, width, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < rows.size(0); ++t) {
      if (id[t] == pad_token_id) continue;
      float* row = target + id[t] * width;
      for (std::int64_t c = begin; c < end; ++c) row[c] += source[t * width + c];
    }
  });
}

}  // namespace fbi::ops
