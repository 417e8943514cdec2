#include "cli/export_check.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

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

eval::WindowSource random_windows(const eval::LanguageModel& model) {
  const std::int64_t length = std::min(kWindowTokens, model.max_position());
  RandomStream random(/*seed=*/2024, /*stream=*/7);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(kWindows * length));
  for (auto& id : ids)
    id = static_cast<std::int32_t>(
        random.next_below(static_cast<std::uint64_t>(model.vocab_size())));
  return eval::stream_windows(std::move(ids), length);
}

/// The dense model that a GGUF export holds.
std::unique_ptr<nn::LlamaForCausalLM> load_gguf(const std::filesystem::path& source,
                                                const std::filesystem::path& exported) {
  auto model = nn::open_model_folder(source).config;
  const auto weights =
      nn::stored_weights(exporter::gguf_source(exported / exporter::kGgufFile, model));
  model.binarize = config::Binarize::kNone;
  auto out = std::make_unique<nn::LlamaForCausalLM>(model, nn::LlamaOptions{at::kCPU, at::kFloat});
  nn::load_weights(*out, *weights);
  return out;
}

/// `rounded` is null when nothing was rounded.
ExportComparison compare(eval::LanguageModel& out, nn::LlamaForCausalLM& trained,
                         std::unique_ptr<nn::LlamaForCausalLM> rounded) {
  const auto windows = random_windows(out);
  const auto to_trained = eval::compare_logits(trained, out, windows);
  const auto to_rounded = rounded ? eval::compare_logits(*rounded, out, windows) : to_trained;
  return {to_rounded.max_abs_difference, to_rounded.mean_kl, to_trained.max_abs_difference,
          to_trained.mean_kl, std::nullopt};
}

}  // namespace

ExportComparison compare_export(const std::filesystem::path& source,
                                const std::filesystem::path& exported, at::ScalarType dtype) {
  const auto out = load(exported, at::kFloat);
  return compare(*out, *load(source, at::kFloat),
                 dtype == at::kFloat ? nullptr : load(source, dtype));
}

ExportComparison compare_packed_export(const std::filesystem::path& source,
                                       const std::filesystem::path& exported,
                                       at::ScalarType dtype) {
  infer::PackedModel out(exported);
  auto rounded = load(source, at::kFloat);
  for (auto* slot : rounded->slots())
    if (slot->kind == ops::SlotKind::kDense && slot->value.dim() == 2)
      slot->value.copy_(slot->value.to(dtype));
  return compare(out, *load(source, at::kFloat), std::move(rounded));
}

ExportComparison compare_gguf_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype) {
  const auto out = load_gguf(source, exported);
  return compare(*out, *load(source, at::kFloat),
                 dtype == at::kFloat ? nullptr : load(source, dtype));
}

ExportComparison compare_bits_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype) {
  const auto out = load_gguf(source, exported);
  auto rounded = load(source, at::kFloat);
  const auto round = [&](at::Tensor& values) { values.copy_(values.to(dtype)); };
  for (auto* slot : rounded->slots()) {
    if (slot->kind == ops::SlotKind::kDense) round(slot->value);
    if (slot->name.ends_with("o_proj.weight") || slot->name.ends_with("down_proj.weight"))
      round(slot->alpha);
  }
  ExportComparison result = compare(*out, *load(source, at::kFloat), std::move(rounded));
  const auto int8 = load_gguf(source, exported);
  int8->round_activations(exporter::kActivationBlock);
  const auto difference = eval::compare_logits(*out, *int8, random_windows(*out));
  result.kl_of_int8_activations = difference.mean_kl;
  result.worst_of_int8_activations = difference.max_abs_difference;
  return result;
}

}  // namespace fbi::cli
