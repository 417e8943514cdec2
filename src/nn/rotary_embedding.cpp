#include "fbi/nn/rotary_embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <numbers>

namespace fbi::nn {
namespace {

/// Llama-3: wavelengths beyond the original context are slowed by `factor`, short ones kept, those
/// between blended.
at::Tensor llama3_scaled(const at::Tensor& frequency, const config::RopeScaling& scaling) {
  const double context = static_cast<double>(scaling.original_max_position_embeddings);
  const at::Tensor wavelength = at::reciprocal(frequency) * (2 * std::numbers::pi);
  const at::Tensor slowed = frequency / scaling.factor;
  const at::Tensor smooth = (at::reciprocal(wavelength) * context - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor blended = slowed * (1 - smooth) + frequency * smooth;
  const at::Tensor low = wavelength > context / scaling.low_freq_factor;
  const at::Tensor high = wavelength < context / scaling.high_freq_factor;
  return at::where(low, slowed, at::where(high, frequency, blended));
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const config::ModelConfig& model, at::Device device) {
  // Formed on the CPU for every device: late positions multiply the last bit of a frequency by
  // thousands.
  const at::Tensor exponent =
      at::arange(0, model.head_dim, 2, at::kFloat) / static_cast<double>(model.head_dim);
  inverse_frequencies_ = at::reciprocal(at::pow(at::Scalar(model.rope_theta), exponent));
  if (model.rope_scaling.type == "linear")
    inverse_frequencies_ = inverse_frequencies_ / model.rope_scaling.factor;
  if (model.rope_scaling.type == "llama3")
    inverse_frequencies_ = llama3_scaled(inverse_frequencies_, model.rope_scaling);
  inverse_frequencies_ = inverse_frequencies_.to(device);
}

RotaryTable RotaryEmbedding::table(std::int64_t first, std::int64_t count,
                                   at::ScalarType dtype) const {
  const at::Tensor positions = at::arange(first, first + count, inverse_frequencies_.options());
  const at::Tensor angles = positions.unsqueeze(1) * inverse_frequencies_;
  return {angles.cos().to(dtype), angles.sin().to(dtype)};
}

}  // namespace fbi::nn
