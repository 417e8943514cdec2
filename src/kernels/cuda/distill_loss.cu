#include <cfloat>
#include <cmath>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/distill_loss_check.h"

/// One block per token. The row is read twice: first for its maxima and sums together (Milakov &
/// Gimelshein 2018), then, mostly from the L2 cache, for the gradient that replaces it.
namespace fbi::kernels::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr float kLog2E = 1.44269504f;

struct Weights {
  float inverse_temperature;
  float exponent;  ///< log2(e) / temperature
  double next;     ///< grad_scale · next_token
  double distill;  ///< grad_scale · distill · temperature
  double temperature_squared;
};

/// What one block works with; pointers are those of all tokens.
template <class T>
struct Loss {
  T* logits;  ///< not written when `gradient` is false
  const T* teacher;
  const std::int32_t* targets;  ///< null: no next-token loss
  std::int64_t vocab_size;
  bool gradient;
  Weights weights;
  float* loss_next;
  float* loss_distill;
};

/// Maxima and sums over the part of a row that was seen, exponentials relative to the maxima. These
/// begin at the lowest finite value, so that nothing is subtracted from minus infinity. soft: sums
/// for the distillation, at its temperature; hard: the student's sum at temperature 1.
template <bool soft, bool hard>
struct Sums {
  float max = -FLT_MAX, teacher_max = -FLT_MAX;
  float student = 0;  ///< Σ 2^((z - max)·exponent)
  float teacher = 0;
  float cross = 0;  ///< Σ 2^((t - teacher_max)·exponent) · (z - max)
  float next = 0;   ///< Σ e^(z - max)

  __device__ void raise(float top, float exponent) {
    if (!(top > max)) return;
    if (soft) {
      student *= exp2f((max - top) * exponent);
      if (teacher != 0) cross -= teacher * (top - max);
    }
    if (hard) next *= exp2f((max - top) * kLog2E);
    max = top;
  }
  __device__ void raise_teacher(float top, float exponent) {
    if (!(top > teacher_max)) return;
    const float factor = exp2f((teacher_max - top) * exponent);
    teacher *= factor;
    cross *= factor;
    teacher_max = top;
  }
  /// n of the elements, or all where the packs are whole.
  template <bool whole, int size>
  __device__ void add(const float (&z)[size], const float (&t)[size], std::int64_t n,
                      float exponent) {
    float top = max, teacher_top = teacher_max;
    for (int j = 0; j < size; ++j) {
      if ((whole || j < n) && z[j] > top) top = z[j];
      if (soft && (whole || j < n) && t[j] > teacher_top) teacher_top = t[j];
    }
    raise(top, exponent);
    if (soft) raise_teacher(teacher_top, exponent);
    for (int j = 0; j < size; ++j) {
      if (!whole && j >= n) continue;
      const float shifted = z[j] - max;
      if (soft) {
        const float q = exp2f((t[j] - teacher_max) * exponent);
        student += exp2f(shifted * exponent);
        teacher += q;
        cross = fmaf(q, shifted, cross);
      }
      if (hard) next += exp2f(shifted * kLog2E);
    }
  }
};

/// z <- next·e^(z - max) + student·2^((z - max)·exponent) - teacher·2^((t - teacher_max)·exponent)
struct Factors {
  float next = 0, student = 0, teacher = 0;
  float onehot = 0;          ///< taken from the target's gradient
  std::int64_t target = -1;  ///< -1: none
};

template <bool whole, class T, bool soft, bool hard>
__device__ inline void write_gradient(const Loss<T>& loss, T* row, const T* teacher_row,
                                      const Sums<soft, hard>& maxima, const Factors& factors) {
  constexpr int kSize = kPackSize<T>;
  const float exponent = loss.weights.exponent;
  for (std::int64_t v = std::int64_t{threadIdx.x} * kSize; v < loss.vocab_size;
       v += std::int64_t{blockDim.x} * kSize) {
    float z[kSize], t[kSize];
    load<whole>(z, row + v, loss.vocab_size - v);
    if (soft) load<whole>(t, teacher_row + v, loss.vocab_size - v);
    for (int j = 0; j < kSize; ++j) {
      const float shifted = z[j] - maxima.max;
      float gradient = 0;
      if (soft) {
        const float q = exp2f((t[j] - maxima.teacher_max) * exponent);
        gradient = fmaf(factors.student, exp2f(shifted * exponent), -(factors.teacher * q));
      }
      if (hard) gradient = fmaf(factors.next, exp2f(shifted * kLog2E), gradient);
      if (v + j == factors.target) gradient -= factors.onehot;
      z[j] = gradient;
    }
    store<whole>(row + v, z, loss.vocab_size - v);
  }
}

/// The sums of a whole row, equal in every thread.
struct RowSums {
  double student, teacher, cross, next;
};

/// Leaves the row's maxima in `part`.
template <bool soft, bool hard>
__device__ inline RowSums row_sums(Sums<soft, hard>& part, const Weights& weights) {
  part.raise(over_block(part.max, Max()), weights.exponent);
  RowSums sums = {};
  if (soft) {
    part.raise_teacher(over_block(part.teacher_max, Max()), weights.exponent);
    sums.student = over_block(double{part.student}, Sum());
    sums.teacher = over_block(double{part.teacher}, Sum());
    sums.cross = over_block(double{part.cross}, Sum()) * weights.inverse_temperature;
  }
  // At temperature 1 they are the same.
  sums.next = hard ? over_block(double{part.next}, Sum()) : sums.student;
  return sums;
}

/// `whole`: rows can be moved in packs.
template <class T, bool soft, bool hard, bool whole>
__global__ void __launch_bounds__(kMaxThreads) loss_kernel(Loss<T> loss) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t token = blockIdx.x;
  T* row = loss.logits + token * loss.vocab_size;
  const T* teacher_row = soft ? loss.teacher + token * loss.vocab_size : nullptr;
  const std::int64_t target = loss.targets ? loss.targets[token] : 0;
  const bool bad_target = target < 0 || target >= loss.vocab_size;
  // Read before the barriers below, behind which the gradient takes its place.
  const float target_logit = bad_target ? NAN : to_float(row[target]);

  Sums<soft, hard> part;
  for (std::int64_t v = std::int64_t{threadIdx.x} * kSize; v < loss.vocab_size;
       v += std::int64_t{blockDim.x} * kSize) {
    float z[kSize], t[kSize] = {};
    load<whole>(z, row + v, loss.vocab_size - v);
    if (soft) load<whole>(t, teacher_row + v, loss.vocab_size - v);
    part.template add<whole>(z, t, loss.vocab_size - v, loss.weights.exponent);
  }
  const RowSums sums = row_sums(part, loss.weights);

  const Weights& weights = loss.weights;
  if (threadIdx.x == 0) {
    const double log_next = log(sums.next) + (double{part.max} - target_logit);
    if (loss.targets && loss.loss_next) loss.loss_next[token] = static_cast<float>(log_next);
    const double cross_entropy = bad_target ? NAN : log(sums.student) - sums.cross / sums.teacher;
    if (soft)
      loss.loss_distill[token] = static_cast<float>(weights.temperature_squared * cross_entropy);
  }
  if (!loss.gradient) return;
  Factors factors;
  const double next = bad_target ? NAN : weights.next;
  if (loss.targets) factors.target = target;
  factors.onehot = static_cast<float>(next);
  if (soft) {
    factors.student =
        static_cast<float>(weights.distill / sums.student + (hard ? 0 : next / sums.next));
    factors.teacher = static_cast<float>(weights.distill / sums.teacher);
  }
  if (hard) factors.next = static_cast<float>(next / sums.next);
  write_gradient<whole>(loss, row, teacher_row, part, factors);
}

/// Threads for rows of so many packs: results depend on it, so it depends on the row alone.
int threads_for(std::int64_t packs) {
  const std::int64_t warps = ceil_div(packs, kWarp);
  return static_cast<int>(warps * kWarp < kMaxThreads ? warps * kWarp : kMaxThreads);
}

template <class T, bool whole>
auto kernel_of(bool soft, bool hard) {
  return !soft  ? loss_kernel<T, false, true, whole>
         : hard ? loss_kernel<T, true, true, whole>
                : loss_kernel<T, true, false, whole>;
}

template <class T>
void run(const Loss<T>& loss, bool soft, bool hard, std::int64_t tokens, Stream stream) {
  const bool whole = loss.vocab_size % kPackSize<T> == 0 && aligned_to(loss.logits, 16) &&
                     (!soft || aligned_to(loss.teacher, 16));
  const auto kernel = whole ? kernel_of<T, true>(soft, hard) : kernel_of<T, false>(soft, hard);
  launch("distill_loss", kernel, Grid{tokens}, threads_for(ceil_div(loss.vocab_size, kPackSize<T>)),
         stream, loss);
}

}  // namespace

void distill_loss(const DistillLossArgs& args, Stream stream) {
  check_loss_arguments(args);
  const auto inverse_temperature = static_cast<float>(1 / args.temperature);
  const bool soft = args.distill != 0;
  with_type(args.type, [&](auto element) {
    using T = decltype(element);
    Loss<T> loss = {};
    loss.logits = static_cast<T*>(args.logits);
    loss.teacher = static_cast<const T*>(args.teacher_logits);
    loss.targets = args.loss_next ? args.targets : nullptr;
    loss.vocab_size = args.vocab_size;
    loss.gradient = true;
    loss.weights = {
        inverse_temperature, kLog2E * inverse_temperature, args.grad_scale * args.next_token,
        args.grad_scale * args.distill * args.temperature, args.temperature * args.temperature};
    loss.loss_next = args.loss_next;
    loss.loss_distill = args.loss_distill;
    run(loss, soft, !soft || (loss.targets && args.temperature != 1), args.tokens, stream);
  });
}

void next_token_nll(const void* logits, Element type, const std::int32_t* targets,
                    std::int64_t tokens, std::int64_t vocab_size, float* out, Stream stream) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    Loss<T> loss = {};
    loss.logits = const_cast<T*>(static_cast<const T*>(logits));
    loss.targets = targets;
    loss.vocab_size = vocab_size;
    loss.weights.exponent = kLog2E;
    loss.loss_next = out;
    run(loss, false, true, tokens, stream);
  });
}

}  // namespace fbi::kernels::cuda
