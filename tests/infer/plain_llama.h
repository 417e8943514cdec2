#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "formats/memory_source.h"

namespace fbi::infer {

/// A LLaMA as its definition reads, in double, one token at a time, from latent weights: what the
/// runtime is compared with.
class PlainLlama {
 public:
  PlainLlama(formats::MemorySource& source, const config::ModelConfig& model)
      : source_(source), model_(model) {}

  /// Logits of every position, [S, V].
  std::vector<std::vector<double>> logits(std::span<const std::int32_t> ids) {
    std::vector<Vector> hidden;
    for (const std::int32_t id : ids) hidden.push_back(row("model.embed_tokens.weight", id));
    for (std::int64_t layer = 0; layer < model_.num_hidden_layers; ++layer) run(layer, hidden);
    std::vector<Vector> out;
    const std::string head =
        model_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    for (const Vector& x : hidden) {
      const Vector normed = norm(x, "model.norm.weight");
      Vector logits;
      for (std::int64_t v = 0; v < model_.vocab_size; ++v)
        logits.push_back(dot(row(head, v), normed));
      out.push_back(logits);
    }
    return out;
  }

 private:
  using Vector = std::vector<double>;

  Vector row(const std::string& name, std::int64_t index) {
    const auto& values = source_.values(name);
    const auto begin = values.begin() + index * model_.hidden_size;
    return {begin, begin + model_.hidden_size};
  }
  static double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  Vector norm(const Vector& x, const std::string& name) {
    const double factor =
        1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + model_.rms_norm_eps);
    Vector out;
    for (std::size_t i = 0; i < x.size(); ++i)
      out.push_back(x[i] * factor * source_.values(name)[i]);
    return out;
  }
  /// y = x W~ᵀ with W~ = alpha·sign(W) + beta.
  Vector linear(const std::string& prefix, const Vector& x) {
    const auto& latent = source_.values(prefix + ".weight");
    const auto& alpha = source_.values(prefix + ".wscale");
    const auto beta =
        model_.shift ? source_.values(prefix + ".wbias") : std::vector<float>(alpha.size());
    const std::size_t columns = x.size();
    Vector y(latent.size() / columns);
    for (std::size_t o = 0; o < y.size(); ++o) {
      for (std::size_t i = 0; i < columns; ++i) {
        const std::size_t k = model_.binarize == config::Binarize::kColumn ? i
                              : model_.binarize == config::Binarize::kRow  ? o
                                                                           : 0;
        const double sign = latent[o * columns + i] >= 0 ? 1 : -1;
        y[o] += (alpha[k] * sign + beta[k]) * x[i];
      }
    }
    return y;
  }
  double frequency(std::int64_t i) const {
    const config::RopeScaling& rope = model_.rope_scaling;
    const double f = std::pow(model_.rope_theta,
                              -2.0 * static_cast<double>(i) / static_cast<double>(model_.head_dim));
    if (rope.type == "linear") return f / rope.factor;
    if (rope.type != "llama3") return f;
    const auto length = static_cast<double>(rope.original_max_position_embeddings);
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > length / rope.low_freq_factor) return f / rope.factor;
    if (wavelength < length / rope.high_freq_factor) return f;
    const double s = (length / wavelength - rope.low_freq_factor) /
                     (rope.high_freq_factor - rope.low_freq_factor);
    return (1 - s) * f / rope.factor + s * f;
  }
  /// Rotates every head of a vector by its position.
  void rotate(Vector& x, std::size_t position) const {
    const std::int64_t half = model_.head_dim / 2;
    for (std::size_t head = 0; head < x.size(); head += static_cast<std::size_t>(2 * half)) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequency(i);
        double &a = x[head + i], &b = x[head + half + i];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
    }
  }
  Vector attend(const Vector& query, const std::vector<Vector>& keys,
                const std::vector<Vector>& values, std::size_t positions) const {
    Vector mixed(query.size());
    const std::int64_t width = model_.head_dim;
    const std::int64_t group = model_.num_attention_heads / model_.num_key_value_heads;
    for (std::int64_t head = 0; head < model_.num_attention_heads; ++head) {
      const std::int64_t from = head / group * width;
      Vector weight;
      double sum = 0;
      for (std::size_t p = 0; p < positions; ++p) {
        double score = 0;
        for (std::int64_t e = 0; e < width; ++e)
          score += query[head * width + e] * keys[p][from + e];
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(width))));
        sum += weight.back();
      }
      for (std::size_t p = 0; p < positions; ++p) {
        for (std::int64_t e = 0; e < width; ++e) {
          mixed[head * width + e] += weight[p] / sum * values[p][from + e];
        }
      }
    }
    return mixed;
  }
  void run(std::int64_t layer, std::vector<Vector>& hidden) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    std::vector<Vector> keys, values;
    for (std::size_t t = 0; t < hidden.size(); ++t) {
      Vector& x = hidden[t];
      const Vector h = norm(x, prefix + "input_layernorm.weight");
      Vector query = linear(prefix + "self_attn.q_proj", h);
      keys.push_back(linear(prefix + "self_attn.k_proj", h));
      values.push_back(linear(prefix + "self_attn.v_proj", h));
      rotate(query, t);
      rotate(keys.back(), t);
      add(x, linear(prefix + "self_attn.o_proj", attend(query, keys, values, t + 1)));
      const Vector m = norm(x, prefix + "post_attention_layernorm.weight");
      Vector gate = linear(prefix + "mlp.gate_proj", m);
      const Vector up = linear(prefix + "mlp.up_proj", m);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      add(x, linear(prefix + "mlp.down_proj", gate));
    }
  }
  static void add(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  formats::MemorySource& source_;
  config::ModelConfig model_;
};

}  // namespace fbi::infer
