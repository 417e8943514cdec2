#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "config/small_model.h"
#include "fbi/exporter/packed.h"
#include "fbi/infer/packed_model.h"
#include "formats/memory_source.h"
#include "infer/plain_llama.h"
#include "support/temp_dir.h"

/// Small models for tests of the runtime, and what is expected of their logits.
namespace fbi::infer {

using config::small_model;
using formats::MemorySource;

/// Larger than small_model, so that tables have several parts and rows several blocks, and with
/// activations of every size: embedding and scales of about 1.
inline config::ModelConfig test_model(config::Binarize binarize = config::Binarize::kColumn) {
  config::ModelConfig model = small_model(binarize);
  model.vocab_size = 97;
  model.hidden_size = 72;
  model.intermediate_size = 300;
  model.num_attention_heads = 6;
  model.num_key_value_heads = 2;
  model.head_dim = 12;  // padded to 16 in the cache
  model.max_position_embeddings = 64;
  return model;
}

/// Few heads: the emulator of GPUs gives each block of attention 128 fibers.
inline config::ModelConfig gpu_model(config::Binarize binarize = config::Binarize::kColumn) {
  config::ModelConfig model = test_model(binarize);
  model.num_attention_heads = 2;
  model.num_key_value_heads = 1;
  return model;
}

inline MemorySource test_source(const config::ModelConfig& model) {
  MemorySource source(model);
  for (auto& [name, tensor] : source.tensors) {
    if (name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight")) {
      for (float& value : tensor.values) value *= 20;
    }
    if (name.ends_with("wscale")) {
      for (float& value : tensor.values) value *= 4;
    }
  }
  return source;
}

inline std::vector<std::int32_t> some_ids(std::int64_t count, std::int64_t vocab = 97) {
  std::vector<std::int32_t> ids;
  RandomStream random(7, 1);
  for (std::int64_t t = 0; t < count; ++t) {
    ids.push_back(static_cast<std::int32_t>(random.next_below(static_cast<std::uint64_t>(vocab))));
  }
  return ids;
}

inline std::vector<float> all_logits(PackedModel& model, const std::vector<std::int32_t>& ids) {
  std::vector<float> out(ids.size() * static_cast<std::size_t>(model.vocab_size()));
  model.logits(ids, 1, std::ssize(ids), out);
  return out;
}

/// A model in a folder, and what the definition in double gives for it.
class ExpectedLogits {
 public:
  explicit ExpectedLogits(const config::ModelConfig& config) {
    MemorySource source = test_source(config);
    exporter::export_packed(source, config, dir_ / "m", formats::DType::kF32).commit();
    expected_ = PlainLlama(source, config).logits(ids_);
  }

  /// fp32 rounding of two layers, relative to logits of about 10.
  void expect_near(const PackedOptions& options, double tolerance) const {
    PackedModel model(dir_ / "m", options);
    const auto found = all_logits(model, ids_);
    double worst = 0, largest = 0;
    for (std::size_t n = 0; n < found.size(); ++n) {
      const double plain = expected_[n / 97][n % 97];
      worst = std::max(worst, std::abs(found[n] - plain));
      largest = std::max(largest, std::abs(plain));
    }
    EXPECT_GT(largest, 1) << "logits too small to tell anything";
    EXPECT_LE(worst, tolerance * largest);
  }

 private:
  test::TempDir dir_;
  std::vector<std::int32_t> ids_ = some_ids(37);  // several pieces of Forward::kMaxRows
  std::vector<std::vector<double>> expected_;
};

inline void expect_plain_logits(const config::ModelConfig& config, const PackedOptions& options,
                                double tolerance) {
  ExpectedLogits(config).expect_near(options, tolerance);
}

}  // namespace fbi::infer
