#pragma once

#include "kernels/cpu/vec16_lanes.h"

/// Softmax, losses and their gradient. Order of every sum: element v goes to fp32 lane v % 16;
/// after each kSumBlock elements the lanes go to 16 double lanes; these are added in ascending
/// order. So at most kSumBlock / 16 = 32 fp32 additions meet in one partial sum (relative error of
/// a sum of positive terms below 32 · 2^-24, about 1e-7 in practice), while the additions in double
/// are 1/32 of all.
namespace fbi::kernels {
namespace {

constexpr std::int64_t kSumBlock = 512;

/// exp(x) for x <= 0 or NaN, relative error below 1 ulp (a test measures it). n = round(x / ln 2),
/// r = x - n·ln 2 in two steps, exp(r) by a polynomial of degree 6 (own minimax fit on |r| <= ln 2
/// / 2, error 3e-9), times 2^n. Results below 2^-126 lose bits as fp32 does; from x = -87.68 down,
/// -inf included, the result is 0. NaN stays NaN.
inline Floats exp_nonpositive(Floats x) {
  const Floats magic = splat(12582912.0f + 127.0f);  // 1.5·2^23: the sum's low bits are n + 127
  const Floats clamped = max(splat(-88.0f), x);
  const Floats shifted = fma(clamped, splat(0x1.715476p+0f), magic);
  const Floats n = sub(shifted, magic);
  Floats r = fnma(n, splat(0x1.62e43p-1f), clamped);
  r = fnma(n, splat(-0x1.05c61p-29f), r);
  Floats p = splat(0x1.6a23ccp-10f);
  p = fma(p, r, splat(0x1.123a2p-7f));
  p = fma(p, r, splat(0x1.5558f2p-5f));
  p = fma(p, r, splat(0x1.555492p-3f));
  p = fma(p, r, splat(0x1.fffffcp-2f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return scale_by_exponent(p, shifted);
}

/// Also for x > 0; +inf from x = 88.38 on.
void exp(const float* x, std::int64_t count, float* out) {
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    store(out + i, exp_nonpositive(min(splat(88.5f), load(x + i, lanes))), lanes);
  });
}

/// (x - max) · factor
struct Shift {
  Shift(float max_value, float factor_value) : max(splat(max_value)), factor(splat(factor_value)) {}
  Floats operator()(Floats x) const { return mul(sub(x, max), factor); }
  Floats max, factor;
};

float max(const float* x, std::int64_t count) {
  const Floats lowest = splat(-__builtin_inff());
  Floats a = lowest, b = lowest, c = lowest, d = lowest;
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    a = max(a, load(x + i));
    b = max(b, load(x + i + kLanes));
    c = max(c, load(x + i + 2 * kLanes));
    d = max(d, load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) a = max(a, load(x + i));
  float result = max_lane(max(max(a, b), max(c, d)));
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

/// Calls block(first, size) for blocks of kSumBlock elements.
template <class Block>
inline void for_sum_blocks(std::int64_t count, const Block& block) {
  for (std::int64_t first = 0; first < count; first += kSumBlock) {
    block(first, count - first < kSumBlock ? count - first : kSumBlock);
  }
}

/// Σ exp((x - max) · factor); use(i, exponentials, lanes) receives each.
template <class Use>
inline double sum_exp_of(const float* x, std::int64_t count, float max, float factor,
                         const Use& use) {
  const Shift shift(max, factor);
  Doubles sum = zero_doubles();
  for_sum_blocks(count, [&](std::int64_t first, std::int64_t size) {
    Floats partial = splat(0);
    for_lanes(size, [&](std::int64_t i, auto lanes) {
      const Floats e = exp_nonpositive(shift(load(x + first + i, lanes)));
      use(first + i, e, lanes);
      partial = add(partial, keep(e, lanes));
    });
    accumulate(sum, widen(partial));
  });
  return sum_of_lanes(sum);
}

double sum_exp(const float* x, std::int64_t count, float max, float factor) {
  return sum_exp_of(x, count, max, factor, [](std::int64_t, Floats, auto) {});
}

DistillSums distill_sums(const LogitRow& row) {
  const Shift shift(row.max, row.inverse_temperature);
  const Shift teacher_shift(row.teacher_max, row.inverse_temperature);
  Doubles student = zero_doubles(), teacher = zero_doubles(), cross = zero_doubles();
  for_sum_blocks(row.vocab_size, [&](std::int64_t first, std::int64_t size) {
    Floats student_part = splat(0), teacher_part = splat(0), cross_part = splat(0);
    for_lanes(size, [&](std::int64_t i, auto lanes) {
      const Floats z = shift(load(row.logits + first + i, lanes));
      const Floats t =
          keep(exp_nonpositive(teacher_shift(load(row.teacher + first + i, lanes))), lanes);
      student_part = add(student_part, keep(exp_nonpositive(z), lanes));
      teacher_part = add(teacher_part, t);
      cross_part = fma(t, keep(z, lanes), cross_part);
    });
    accumulate(student, widen(student_part));
    accumulate(teacher, widen(teacher_part));
    accumulate(cross, widen(cross_part));
  });
  return {sum_of_lanes(student), sum_of_lanes(teacher), sum_of_lanes(cross)};
}

template <bool next, bool distill>
void loss_gradient_of(const LogitRow& row, const LossGradient& factors) {
  const Shift next_shift(row.max, 1), shift(row.max, row.inverse_temperature);
  const Shift teacher_shift(row.teacher_max, row.inverse_temperature);
  const Floats next_factor = splat(factors.next), student_factor = splat(factors.student);
  const Floats teacher_factor = splat(factors.teacher);
  for_lanes(row.vocab_size, [&](std::int64_t i, auto lanes) {
    const Floats z = load(row.logits + i, lanes);
    Floats gradient = splat(0);
    if constexpr (distill) {
      const Floats t = exp_nonpositive(teacher_shift(load(row.teacher + i, lanes)));
      gradient = fms(student_factor, exp_nonpositive(shift(z)), mul(teacher_factor, t));
    }
    if constexpr (next) gradient = fma(next_factor, exp_nonpositive(next_shift(z)), gradient);
    store(row.logits + i, gradient, lanes);
  });
}

void loss_gradient(const LogitRow& row, const LossGradient& factors) {
  if (!row.teacher) return loss_gradient_of<true, false>(row, factors);
  factors.next != 0 ? loss_gradient_of<true, true>(row, factors)
                    : loss_gradient_of<false, true>(row, factors);
}

}  // namespace
}  // namespace fbi::kernels
