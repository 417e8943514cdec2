#include "cli/export_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "fbi/core/random.h"

namespace fbi::cli {
namespace {

constexpr std::int64_t kWindows = 2;
constexpr std::int64_t kWindowTokens = 48;

std::vector<std::int32_t> random_tokens(std::int64_t vocab_size) {
  RandomStream random(/*seed=*/2024, /*stream=*/7);
  std::vector<std::int32_t> tokens(kWindows * kWindowTokens);
  for (auto& id : tokens) id = static_cast<std::int32_t>(random.next_below(static_cast<std::uint64_t>(vocab_size)));
  return tokens;
}

std::vector<float> logits_of(const std::filesystem::path& path, at::ScalarType rounding) {
  const auto folder = nn::open_model_folder(path);
  const auto model = nn::load_for_evaluation(folder, {rounding, at::kFloat, "fp32"}, at::kCPU);
  std::vector<float> logits(static_cast<std::size_t>(kWindows * kWindowTokens * model->vocab_size()));
  model->logits(random_tokens(model->vocab_size()), kWindows, kWindowTokens, logits);
  return logits;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = difference;  // a NaN stays
  }
  return worst;
}

double log_sum_exp(const float* row, std::size_t width) {
  const double top = *std::max_element(row, row + width);
  double sum = 0;
  for (std::size_t v = 0; v < width; ++v) sum += std::exp(row[v] - top);
  return top + std::log(sum);
}

double mean_kl(const std::vector<float>& reference, const std::vector<float>& other) {
  constexpr std::size_t rows = kWindows * kWindowTokens;
  const std::size_t width = reference.size() / rows;
  double total = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    const float* p = reference.data() + row * width;
    const float* q = other.data() + row * width;
    const double p_norm = log_sum_exp(p, width), q_norm = log_sum_exp(q, width);
    for (std::size_t v = 0; v < width; ++v) total += std::exp(p[v] - p_norm) * ((p[v] - p_norm) - (q[v] - q_norm));
  }
  return total / rows;
}

}  // namespace

ExportComparison compare_export(const std::filesystem::path& source, const std::filesystem::path& exported, at::ScalarType dtype) {
  const auto out = logits_of(exported, at::kFloat);
  const auto rounded = logits_of(source, dtype);
  const auto trained = dtype == at::kFloat ? rounded : logits_of(source, at::kFloat);
  return {largest_difference(rounded, out), largest_difference(trained, out), mean_kl(trained, out)};
}

}  // namespace fbi::cli
