#include "infer/rotary.h"

#include <cmath>
#include <numbers>

namespace fbi::infer {
namespace {

/// Llama-3: wavelengths beyond the original context are slowed by `factor`, short ones kept, those
/// between blended.
float llama3_scaled(float frequency, const config::RopeScaling& scaling) {
  const auto context = static_cast<float>(scaling.original_max_position_embeddings);
  const auto low = static_cast<float>(scaling.low_freq_factor);
  const auto high = static_cast<float>(scaling.high_freq_factor);
  const float slowed = frequency / static_cast<float>(scaling.factor);
  const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
  if (wavelength > context / low) return slowed;
  if (wavelength < context / high) return frequency;
  const float smooth = (context / wavelength - low) / (high - low);
  return slowed * (1 - smooth) + frequency * smooth;
}

}  // namespace

Rotary::Rotary(const config::ModelConfig& model) {
  const config::RopeScaling& scaling = model.rope_scaling;
  for (std::int64_t i = 0; i < model.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(model.head_dim);
    float frequency = 1 / std::pow(static_cast<float>(model.rope_theta), exponent);
    if (scaling.type == "linear") frequency /= static_cast<float>(scaling.factor);
    if (scaling.type == "llama3") frequency = llama3_scaled(frequency, scaling);
    inverse_frequencies_.push_back(frequency);
  }
}

void Rotary::angles(std::int64_t position, float* table) const {
  const std::int64_t half = std::ssize(inverse_frequencies_);
  for (std::int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies_[i];
    table[i] = std::cos(angle);
    table[half + i] = std::sin(angle);
  }
}

void Rotary::rotate(const float* x, const float* table, float* out) const {
  const std::int64_t half = std::ssize(inverse_frequencies_);
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i], cos = table[i], sin = table[half + i];
    out[i] = a * cos - b * sin;
    out[half + i] = b * cos + a * sin;
  }
}

}  // namespace fbi::infer
