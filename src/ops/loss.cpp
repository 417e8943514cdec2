#include "fbi/ops/loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include "fbi/core/error.h"
#include "fbi/kernels/distill_loss.h"
#include "fbi/ops/parallel.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

double ordered_sum(const at::Tensor& values) {
  const auto* data = values.const_data_ptr<float>();
  double sum = 0;
  for (std::int64_t t = 0; t < values.numel(); ++t) sum += data[t];
  return sum;
}

void check_logits(const at::Tensor& logits, const at::Tensor& targets) {
  if (logits.dim() != 2 || (logits.is_cpu() && logits.scalar_type() != at::kFloat) ||
      !logits.is_contiguous())
    throw UsageError(
        concat("loss: logits must be contiguous fp32 [tokens, vocab], found ", logits.sizes()));
  if (targets.scalar_type() != at::kInt || targets.numel() != logits.size(0))
    throw UsageError(
        concat("loss: expected ", logits.size(0), " int32 targets, found ", targets.sizes()));
}

}  // namespace

at::ScalarType logits_dtype(at::Device device, at::ScalarType student, at::ScalarType teacher) {
  return device.is_cuda() && student == teacher ? student : at::kFloat;
}

at::Tensor distill_loss(at::Tensor& logits, const at::Tensor& teacher_logits,
                        const at::Tensor& targets, const LossWeights& weights, double grad_scale) {
  check_logits(logits, targets);
  const bool distill = weights.distill > 0;
  if (distill && teacher_logits.sizes() != logits.sizes())
    throw UsageError(concat("loss: student logits ", logits.sizes(), " but teacher logits ",
                            teacher_logits.sizes()));
  if (distill && teacher_logits.scalar_type() != logits.scalar_type())
    throw UsageError(concat("loss: student logits are ", logits.scalar_type(),
                            " but teacher logits ", teacher_logits.scalar_type()));
  if (logits.is_cuda())
    return gpu::distill_loss(logits, teacher_logits, targets, weights, grad_scale)
        .to(at::kDouble)
        .sum(1);
  const auto options = logits.options();
  at::Tensor next = at::zeros({logits.size(0)}, options),
             soft = at::zeros({logits.size(0)}, options);
  kernels::DistillLossArgs args;
  args.logits = logits.data_ptr<float>();
  args.teacher_logits = distill ? teacher_logits.const_data_ptr<float>() : nullptr;
  args.targets = targets.const_data_ptr<std::int32_t>();
  args.tokens = logits.size(0);
  args.vocab_size = logits.size(1);
  args.next_token = weights.next_token;
  args.distill = weights.distill;
  args.temperature = weights.temperature;
  args.grad_scale = grad_scale;
  args.loss_next = next.data_ptr<float>();
  args.loss_distill = soft.data_ptr<float>();
  kernels::distill_loss(args, torch_parallel_for());
  at::Tensor sums = at::empty({2}, options.dtype(at::kDouble));
  sums.data_ptr<double>()[0] = ordered_sum(next);
  sums.data_ptr<double>()[1] = ordered_sum(soft);
  return sums;
}

std::vector<LossSums> read_sums(const at::Tensor& sums) {
  const at::Tensor host = sums.cpu().contiguous();
  const auto* values = host.const_data_ptr<double>();
  std::vector<LossSums> out;
  for (std::int64_t i = 0; i < host.numel(); i += 2) out.push_back({values[i], values[i + 1]});
  return out;
}

at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets) {
  check_logits(logits, targets);
  if (logits.is_cuda()) return gpu::next_token_nll(logits, targets);
  at::Tensor out = at::empty({logits.size(0)}, logits.options());
  kernels::next_token_nll(logits.const_data_ptr<float>(), targets.const_data_ptr<std::int32_t>(),
                          logits.size(0), logits.size(1), out.data_ptr<float>(),
                          torch_parallel_for());
  return out;
}

}  // namespace fbi::ops
