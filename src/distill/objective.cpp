#include "fbi/distill/objective.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "fbi/ops/matrix_product.h"
#include "fbi/ops/slot_ops.h"

namespace fbi::distill {
namespace {

at::Tensor as_rows(const at::Tensor& hidden) {
  return hidden.reshape({-1, hidden.size(-1)});
}

/// [t, V]; products in the dtype of `weight`.
at::Tensor chunk_logits(const at::Tensor& hidden, const at::Tensor& weight, at::ScalarType dtype) {
  return ops::matrix_product(hidden.to(weight.scalar_type()), weight.t()).to(dtype);
}

/// The teacher's head. On a CPU one that is kept in another type than it is multiplied in is
/// converted piece by piece: as a whole it would be there beside all that backward needs, while a
/// piece stays in cache until it is multiplied.
class TeacherHead {
 public:
  explicit TeacherHead(nn::LlamaForCausalLM& teacher)
      : slot_(teacher.head()), compute_(teacher.options().compute_dtype) {
    const bool converts = slot_.value.scalar_type() != compute_;
    if (!converts || slot_.value.is_cuda()) whole_ = ops::working_weight(slot_, compute_);
  }
  at::ScalarType compute() const { return compute_; }
  /// [t, V]
  at::Tensor logits(const at::Tensor& hidden, at::ScalarType dtype) const {
    if (whole_.defined()) return chunk_logits(hidden, whole_, dtype);
    const std::int64_t rows = slot_.rows();
    at::Tensor logits = at::empty({hidden.size(0), rows}, hidden.options().dtype(dtype));
    for (std::int64_t begin = 0; begin < rows; begin += kTeacherHeadRows) {
      const std::int64_t end = std::min(begin + kTeacherHeadRows, rows);
      const at::Tensor piece = slot_.value.slice(0, begin, end).to(compute_);
      logits.slice(1, begin, end).copy_(chunk_logits(hidden, piece, dtype));
    }
    return logits;
  }

 private:
  const ops::ParameterSlot& slot_;
  at::ScalarType compute_;
  at::Tensor whole_;
};

}  // namespace

Objective::Objective(const config::ObjectiveConfig& objective, std::int64_t chunk_tokens)
    : weights_{objective.next_token, objective.distill, objective.temperature},
      chunk_tokens_(chunk_tokens) {}

Objective::Result Objective::run(nn::LlamaForCausalLM& student, const at::Tensor& student_hidden,
                                 nn::LlamaForCausalLM* teacher, const at::Tensor& teacher_hidden,
                                 const at::Tensor& targets, double grad_scale) const {
  const at::NoGradGuard no_grad;
  ops::ParameterSlot& head = student.head();
  const at::Tensor weight = ops::working_weight(head, student.options().compute_dtype);
  std::optional<TeacherHead> teacher_head;
  if (needs_teacher()) teacher_head.emplace(*teacher);
  const at::Tensor hidden = as_rows(student_hidden);
  const at::Tensor reference = needs_teacher() ? as_rows(teacher_hidden) : at::Tensor();
  const auto dtype =
      ops::logits_dtype(weight.device(), weight.scalar_type(),
                        teacher_head ? teacher_head->compute() : weight.scalar_type());

  Result result{at::empty_like(hidden), at::zeros({2}, hidden.options().dtype(at::kDouble))};
  for (std::int64_t begin = 0; begin < hidden.size(0); begin += chunk_tokens_) {
    const std::int64_t end = std::min(begin + chunk_tokens_, hidden.size(0));
    const at::Tensor rows = hidden.slice(0, begin, end);
    at::Tensor logits = chunk_logits(rows, weight, dtype);
    const at::Tensor soft =
        teacher_head ? teacher_head->logits(reference.slice(0, begin, end), dtype) : at::Tensor();
    result.sums.add_(
        ops::distill_loss(logits, soft, targets.slice(0, begin, end), weights_, grad_scale));
    const at::Tensor dlogits = logits.to(weight.scalar_type());
    result.dhidden.slice(0, begin, end).copy_(ops::matrix_product(dlogits, weight));
    ops::accumulate_outer(head.grad, dlogits, rows.to(weight.scalar_type()));
  }
  result.dhidden = result.dhidden.view(student_hidden.sizes());
  return result;
}

double Objective::loss(const ops::LossSums& sums, std::int64_t tokens) const {
  // A loss with the weight 0 is measured all the same; that it overflows must not count.
  const auto part = [](double weight, double sum) { return weight == 0 ? 0 : weight * sum; };
  return (part(weights_.next_token, sums.next_token) + part(weights_.distill, sums.distill)) /
         static_cast<double>(tokens);
}

}  // namespace fbi::distill
