#include <cmath>
#include <limits>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {
namespace {

double exp_of(float x, float max, float factor) {
  return std::exp((double{x} - max) * factor);
}

}  // namespace

float max(const float* x, std::int64_t count) {
  float result = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

double sum_exp(const float* x, std::int64_t count, float max, float factor) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += exp_of(x[i], max, factor);
  return sum;
}

DistillSums distill_sums(const LogitRow& row) {
  DistillSums sums = {};
  for (std::int64_t v = 0; v < row.vocab_size; ++v) {
    const double z = (double{row.logits[v]} - row.max) * row.inverse_temperature;
    const double teacher = exp_of(row.teacher[v], row.teacher_max, row.inverse_temperature);
    sums.student += std::exp(z);
    sums.teacher += teacher;
    sums.cross += teacher * z;
  }
  return sums;
}

void loss_gradient(const LogitRow& row, const LossGradient& factors) {
  for (std::int64_t v = 0; v < row.vocab_size; ++v) {
    const float z = row.logits[v];
    double gradient = factors.next ? factors.next * exp_of(z, row.max, 1) : 0;
    if (row.teacher) {
      gradient += factors.student * exp_of(z, row.max, row.inverse_temperature);
      gradient -=
          factors.teacher * exp_of(row.teacher[v], row.teacher_max, row.inverse_temperature);
    }
    row.logits[v] = static_cast<float>(gradient);
  }
}

void exp(const float* x, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(std::exp(double{x[i]}));
}

}  // namespace fbi::kernels::ref
