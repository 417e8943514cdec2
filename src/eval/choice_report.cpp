#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "fbi/core/version.h"
#include "fbi/eval/choice.h"

namespace fbi::eval {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct Mean {
  double value = 0, error = 0;  // standard error, 0 of a single item
};

template <class IsRight>
Mean mean_of(const ChoiceResult& result, IsRight is_right) {
  const auto count = static_cast<double>(result.items.size());
  if (result.items.empty()) return {};
  double right = 0;
  for (const auto& item : result.items) right += is_right(item);
  const double mean = right / count;
  // The sum of squared deviations of ones and zeros.
  const double squares = right * (1 - mean) * (1 - mean) + (count - right) * mean * mean;
  return {mean, count > 1 ? std::sqrt(squares / (count - 1) / count) : 0};
}

bool is_finite(const ChoiceResult& result) {
  return std::ranges::all_of(result.items, [](const ChoiceItemResult& item) {
    return std::ranges::all_of(item.log_likelihoods, [](double x) { return std::isfinite(x); });
  });
}

}  // namespace

ChoiceScores scores_of(const ChoiceResult& result) {
  if (!is_finite(result)) {
    constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
    return {kUnknown, kUnknown, kUnknown, kUnknown};
  }
  const Mean acc =
      mean_of(result, [](const ChoiceItemResult& item) { return item.chosen == item.gold; });
  const Mean norm =
      mean_of(result, [](const ChoiceItemResult& item) { return item.chosen_norm == item.gold; });
  return {acc.value, acc.error, norm.value, norm.error};
}

std::optional<double> published_average(std::span<const ChoiceResult> results) {
  double sum = 0;
  for (const std::string& form : choice_forms()) {
    const auto found = std::ranges::find(results, form, &ChoiceResult::task);
    if (found == results.end() || found->add_bos) return std::nullopt;
    const ChoiceScores scores = scores_of(*found);
    sum += found->has_acc_norm ? scores.acc_norm : scores.acc;
  }
  return sum / static_cast<double>(choice_forms().size());
}

std::string to_json(std::span<const ChoiceResult> results) {
  OrderedJson scores = OrderedJson::object(), samples = OrderedJson::object();
  for (const ChoiceResult& result : results) {
    const ChoiceScores found = scores_of(result);
    OrderedJson& task = scores[result.task] = {
        {"alias", result.task}, {"acc,none", found.acc}, {"acc_stderr,none", found.acc_stderr}};
    if (result.has_acc_norm) {
      task["acc_norm,none"] = found.acc_norm;
      task["acc_norm_stderr,none"] = found.acc_norm_stderr;
    }
    samples[result.task] = {{"original", result.items_total}, {"effective", result.items.size()}};
  }
  OrderedJson config = {{"model", "fbi-llm"}, {"fbi_version", version()}};
  if (!results.empty()) {
    config["dtype"] = results.front().dtype;
    config["add_bos_token"] = results.front().add_bos;
  }
  config["num_fewshot"] = 0;
  OrderedJson out = {{"results", scores}, {"n-samples", samples}, {"config", config}};
  if (const auto average = published_average(results)) out["published_average"] = *average;
  return out.dump(1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string samples_jsonl(const ChoiceResult& result) {
  std::string lines;
  for (std::size_t i = 0; i < result.items.size(); ++i) {
    const ChoiceItemResult& item = result.items[i];
    OrderedJson line = {{"doc_id", result.first_item + static_cast<std::int64_t>(i)},
                        {"task", result.task},
                        {"target", item.gold},
                        {"filtered_resps", item.log_likelihoods},
                        {"acc", item.chosen == item.gold ? 1.0 : 0.0}};
    if (result.has_acc_norm) line["acc_norm"] = item.chosen_norm == item.gold ? 1.0 : 0.0;
    lines += line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  }
  return lines;
}

}  // namespace fbi::eval
