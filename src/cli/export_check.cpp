#include "cli/export_check.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>

#include "fbi/core/random.h"
#include "fbi/eval/compare.h"
#include "fbi/exporter/gguf.h"
#include "fbi/infer/packed_model.h"

namespace fbi::cli {
namespace {

constexpr std::int64_t kWindows = 4;
constexpr std::int64_t kWindowTokens = 32;

std::unique_ptr<nn::LlamaForCausalLM> load(const std::filesystem::path& path,
                                           at::ScalarType rounding) {
  return nn::load_for_evaluation(nn::open_model_folder(path), {rounding, at::kFloat, "fp32"},
                                 at::kCPU);
}

/// `model` is resolved.
eval::WindowSource random_windows(const config::ModelConfig& model) {
  const std::int64_t length = std::min(kWindowTokens, model.max_position_embeddings);
  RandomStream random(/*seed=*/2024, /*stream=*/7);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(kWindows * length));
  for (auto& id : ids)
    id = static_cast<std::int32_t>(random.next_below(static_cast<std::uint64_t>(model.vocab_size)));
  return eval::stream_windows(std::move(ids), length);
}

/// Of a model that may then go: there is memory for one of them at a time.
eval::KeptLogits logits_of(eval::LanguageModel& model, const config::ModelConfig& config) {
  return eval::keep_logits(model, random_windows(config));
}

eval::KeptLogits logits_of(nn::LlamaForCausalLM& model) {
  return logits_of(model, model.config());
}

eval::KeptLogits logits_of(std::unique_ptr<nn::LlamaForCausalLM> model) {
  return logits_of(*model);
}

/// The dense model that a GGUF export holds.
std::unique_ptr<nn::LlamaForCausalLM> load_gguf(const std::filesystem::path& source,
                                                const std::filesystem::path& exported) {
  auto model = nn::open_model_folder(source).config;
  const auto weights = exporter::gguf_source(exported / exporter::kGgufFile, model);
  model.binarize = config::Binarize::kNone;
  auto out = std::make_unique<nn::LlamaForCausalLM>(model, nn::LlamaOptions{at::kCPU, at::kFloat});
  nn::load_weights(*out, *weights);
  return out;
}

ExportComparison compare(const eval::KeptLogits& out, const eval::KeptLogits& trained,
                         const eval::KeptLogits& rounded) {
  const auto to_trained = eval::compare_logits(trained, out);
  const auto to_rounded = eval::compare_logits(rounded, out);
  return {to_rounded.max_abs_difference, to_rounded.mean_kl, to_trained.max_abs_difference,
          to_trained.mean_kl, std::nullopt};
}

/// With the weights of `source` as trained, and rounded to `dtype` as a whole.
ExportComparison compare_dense(const eval::KeptLogits& out, const std::filesystem::path& source,
                               at::ScalarType dtype) {
  const eval::KeptLogits trained = logits_of(load(source, at::kFloat));
  return compare(out, trained, dtype == at::kFloat ? trained : logits_of(load(source, dtype)));
}

}  // namespace

ExportComparison compare_export(const std::filesystem::path& source,
                                const std::filesystem::path& exported, at::ScalarType dtype) {
  return compare_dense(logits_of(load(exported, at::kFloat)), source, dtype);
}

ExportComparison compare_packed_export(const std::filesystem::path& source,
                                       const std::filesystem::path& exported,
                                       at::ScalarType dtype) {
  const eval::KeptLogits out = [&] {
    infer::PackedModel model(exported);
    return logits_of(model, model.config());
  }();
  auto model = load(source, at::kFloat);
  const eval::KeptLogits trained = logits_of(*model);
  for (auto* slot : model->slots())
    if (slot->kind == ops::SlotKind::kDense && slot->value.dim() == 2)
      slot->value.copy_(slot->value.to(dtype));
  return compare(out, trained, logits_of(*model));
}

ExportComparison compare_gguf_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype) {
  return compare_dense(logits_of(load_gguf(source, exported)), source, dtype);
}

ExportComparison compare_bits_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype) {
  auto model = load_gguf(source, exported);
  const eval::KeptLogits out = logits_of(*model);
  model->round_activations(exporter::kActivationBlock);
  const auto difference = eval::compare_logits(out, logits_of(std::move(model)));

  auto original = load(source, at::kFloat);
  const eval::KeptLogits trained = logits_of(*original);
  const auto round = [&](at::Tensor& values) { values.copy_(values.to(dtype)); };
  for (auto* slot : original->slots()) {
    if (slot->kind == ops::SlotKind::kDense) round(slot->value);
    if (slot->name.ends_with("o_proj.weight") || slot->name.ends_with("down_proj.weight"))
      round(slot->alpha);
  }
  ExportComparison result = compare(out, trained, logits_of(*original));
  result.kl_of_int8_activations = difference.mean_kl;
  result.worst_of_int8_activations = difference.max_abs_difference;
  return result;
}

}  // namespace fbi::cli
