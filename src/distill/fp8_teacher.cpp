#include "fbi/distill/fp8_teacher.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/ops/fp8.h"

namespace fbi::distill {
namespace {

constexpr std::int64_t kChunkTokens = 256;  // logits that exist at once

std::vector<ops::ParameterSlot*> decoder_matrices(nn::LlamaForCausalLM& model) {
  std::vector<ops::ParameterSlot*> out;
  for (std::int64_t stage = 0; stage < model.stage_count(); ++stage)
    for (auto* slot : model.stage_slots(stage))
      if (slot->kind != ops::SlotKind::kVector) out.push_back(slot);
  return out;
}

void check_matrix(const ops::ParameterSlot& slot, at::Device device) {
  if (slot.kind == ops::SlotKind::kPacked)
    throw UsageError(
        "teacher.dtype=fp8: the teacher is binarized already; leave teacher.dtype empty");
  ops::check_fp8_widths(kFp8Teacher, device, slot);
}

/// Both hidden states [T, D]; natural logarithm.
Fp8Drift drift_between(nn::LlamaForCausalLM& model, const at::Tensor& before,
                       const at::Tensor& after) {
  at::Tensor sums = at::zeros({2}, before.options().dtype(at::kDouble));
  for (std::int64_t begin = 0; begin < before.size(0); begin += kChunkTokens) {
    const std::int64_t end = std::min(begin + kChunkTokens, before.size(0));
    const at::Tensor p = model.head_logits(before.slice(0, begin, end)).log_softmax(-1);
    const at::Tensor q = model.head_logits(after.slice(0, begin, end)).log_softmax(-1);
    sums[0] += (p.exp() * (p - q)).sum(at::kDouble);
    sums[1] += p.argmax(-1).eq(q.argmax(-1)).sum(at::kDouble);
  }
  sums = sums.cpu() / static_cast<double>(before.size(0));
  return {before.size(0), sums[0].item<double>(), sums[1].item<double>()};
}

}  // namespace

Fp8Drift store_as_fp8(nn::LlamaForCausalLM& teacher, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const auto matrices = decoder_matrices(teacher);
  for (const auto* slot : matrices) check_matrix(*slot, ids.device());
  const auto hidden = [&] {
    return teacher.hidden_states(ids).view({ids.numel(), teacher.config().hidden_size});
  };
  const at::Tensor before = hidden();
  for (auto* slot : matrices) ops::store_as_fp8(*slot);
  return drift_between(teacher, before, hidden());
}

}  // namespace fbi::distill
