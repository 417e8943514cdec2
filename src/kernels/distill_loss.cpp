#include "fbi/kernels/distill_loss.h"

#include <cmath>

#include "fbi/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/distill_loss_check.h"

namespace fbi::kernels {
namespace {

void check_targets(const std::int32_t* targets, std::int64_t tokens, std::int64_t vocab_size) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (targets[t] < 0 || targets[t] >= vocab_size) {
      throw DataError(concat("target ", targets[t], " of token ", t, ": expected 0 to ",
                             vocab_size - 1, " (vocabulary of ", vocab_size, ")"));
    }
  }
}

void check(const DistillLossArgs& args) {
  check_loss_arguments(args);
  if (args.loss_next) check_targets(args.targets, args.tokens, args.vocab_size);
}

/// -log softmax(z)[y] from the sum of exp(z - max).
double negative_log_likelihood(double sum, float max, float logit) {
  return std::log(sum) + (double{max} - logit);
}

class TokenLoss {
 public:
  TokenLoss(const DistillLossArgs& args, const CpuKernels& kernels)
      : args_(args), kernels_(kernels) {}

  void run(std::int64_t token) const {
    const std::int64_t offset = token * args_.vocab_size;
    LogitRow row = {.logits = args_.logits + offset,
                    .teacher = args_.distill != 0 ? args_.teacher_logits + offset : nullptr,
                    .vocab_size = args_.vocab_size,
                    .max = kernels_.max(args_.logits + offset, args_.vocab_size),
                    .teacher_max = 0,
                    .inverse_temperature = static_cast<float>(1 / args_.temperature)};
    LossGradient gradient = {};
    double sum = 0;  // of exp((z - max) / temperature)
    if (row.teacher) sum = distill(row, token, gradient);
    if (args_.loss_next) next_token(row, token, sum, gradient);
    kernels_.loss_gradient(row, gradient);
    if (args_.next_token != 0) {
      row.logits[args_.targets[token]] -= static_cast<float>(args_.grad_scale * args_.next_token);
    }
  }

 private:
  /// Returns the sum of exp((z - max) / temperature).
  double distill(LogitRow& row, std::int64_t token, LossGradient& gradient) const {
    row.teacher_max = kernels_.max(row.teacher, row.vocab_size);
    const DistillSums sums = kernels_.distill_sums(row);
    const double tau = args_.temperature;
    const double cross_entropy = std::log(sums.student) - sums.cross / sums.teacher;
    args_.loss_distill[token] = static_cast<float>(tau * tau * cross_entropy);
    const double scale = args_.grad_scale * args_.distill * tau;
    gradient.student = static_cast<float>(scale / sums.student);
    gradient.teacher = static_cast<float>(scale / sums.teacher);
    return sums.student;
  }

  void next_token(const LogitRow& row, std::int64_t token, double sum,
                  LossGradient& gradient) const {
    const bool shared = row.teacher && args_.temperature == 1;  // both losses have one softmax
    if (!shared) sum = kernels_.sum_exp(row.logits, row.vocab_size, row.max, 1);
    args_.loss_next[token] =
        static_cast<float>(negative_log_likelihood(sum, row.max, row.logits[args_.targets[token]]));
    const double factor = args_.grad_scale * args_.next_token / sum;
    if (shared) {
      gradient.student = static_cast<float>(gradient.student + factor);
    } else {
      gradient.next = static_cast<float>(factor);
    }
  }

  const DistillLossArgs& args_;
  const CpuKernels& kernels_;
};

}  // namespace

void distill_loss(const DistillLossArgs& args, ParallelFor& parallel) {
  check(args);
  const TokenLoss loss(args, cpu_kernels());
  parallel.run(0, args.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) loss.run(token);
  });
}

void next_token_nll(const float* logits, const std::int32_t* targets, std::int64_t tokens,
                    std::int64_t vocab_size, float* out, ParallelFor& parallel) {
  check_targets(targets, tokens, vocab_size);
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const float* row = logits + token * vocab_size;
      const float max = kernels.max(row, vocab_size);
      const double sum = kernels.sum_exp(row, vocab_size, max, 1);
      out[token] = static_cast<float>(negative_log_likelihood(sum, max, row[targets[token]]));
    }
  });
}

}  // namespace fbi::kernels
