#include "cli/export_check.h"

#include <algorithm>

#include "fbi/core/random.h"
#include "fbi/eval/compare.h"

namespace fbi::cli {
namespace {

constexpr std::int64_t kWindows = 4;
constexpr std::int64_t kWindowTokens = 32;

std::unique_ptr<nn::LlamaForCausalLM> load(const std::filesystem::path& path, at::ScalarType rounding) {
  return nn::load_for_evaluation(nn::open_model_folder(path), {rounding, at::kFloat, "fp32"}, at::kCPU);
}

eval::WindowSource random_windows(const eval::LanguageModel& model) {
  const std::int64_t length = std::min(kWindowTokens, model.max_position());
  RandomStream random(/*seed=*/2024, /*stream=*/7);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(kWindows * length));
  for (auto& id : ids) id = static_cast<std::int32_t>(random.next_below(static_cast<std::uint64_t>(model.vocab_size())));
  return eval::stream_windows(std::move(ids), length);
}

}  // namespace

ExportComparison compare_export(const std::filesystem::path& source, const std::filesystem::path& exported, at::ScalarType dtype) {
  const auto out = load(exported, at::kFloat);
  const auto windows = random_windows(*out);
  const auto to_trained = eval::compare_logits(*load(source, at::kFloat), *out, windows);
  const auto to_rounded = dtype == at::kFloat ? to_trained : eval::compare_logits(*load(source, dtype), *out, windows);
  return {to_rounded.max_abs_difference, to_trained.max_abs_difference, to_trained.mean_kl};
}

}  // namespace fbi::cli
