#include "serve/metrics.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "fbi/core/error.h"
#include "fbi/core/version.h"

namespace fbi::serve {
namespace {

constexpr double kWaits[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250};
constexpr double kTokens[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                              0.05,   0.1,   0.25,   0.5,   1,    2.5};

/// The shortest text that gives the same number again.
std::string exact(double value) {
  std::array<char, 32> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

std::string header(const char* name, const char* type, const char* help) {
  return concat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

std::string single(const char* name, const char* type, const char* help, std::int64_t value) {
  return concat(header(name, type, help), name, " ", value, "\n");
}

const char* name_of(Metrics::Outcome outcome) {
  return outcome == Metrics::Outcome::kDone        ? "done"
         : outcome == Metrics::Outcome::kCancelled ? "cancelled"
                                                   : "failed";
}

}  // namespace

Metrics::Metrics() : first_token_(kWaits), token_(kTokens), completion_(kWaits) {}

void Metrics::Histogram::observe(double value) {
  ++counts[static_cast<std::size_t>(std::ranges::lower_bound(bounds, value) - bounds.begin())];
  sum += value;
}

void Metrics::add_request(const std::string& endpoint, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{endpoint, status}];
}

void Metrics::add_text(const infer::GenerateResult& result) {
  const std::lock_guard lock(mutex_);
  if (result.new_tokens > 0) first_token_.observe(result.prompt_seconds);
  if (result.new_tokens > 1) {
    token_.observe(result.generate_seconds / static_cast<double>(result.new_tokens - 1));
  }
}

void Metrics::add_completion(Outcome outcome, const Usage& usage, double seconds) {
  const std::lock_guard lock(mutex_);
  ++completions_[outcome];
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.new_tokens += usage.new_tokens;
  if (outcome == Outcome::kDone) completion_.observe(seconds);
}

std::int64_t Metrics::seconds_until_room() const {
  const std::lock_guard lock(mutex_);
  const auto count = static_cast<double>(completions_.at(Outcome::kDone));
  const double mean = count > 0 ? completion_.sum / count : 1;
  return static_cast<std::int64_t>(std::clamp(std::ceil(mean), 1.0, 60.0));
}

std::string Metrics::histogram(const char* name, const char* help, const Histogram& values) {
  std::string text = header(name, "histogram", help);
  std::uint64_t count = 0;  // buckets are cumulative
  for (std::size_t k = 0; k < values.counts.size(); ++k) {
    const std::string bound = k < values.bounds.size() ? exact(values.bounds[k]) : "+Inf";
    count += values.counts[k];
    text += concat(name, "_bucket{le=\"", bound, "\"} ", count, "\n");
  }
  return text + concat(name, "_sum ", exact(values.sum), "\n", name, "_count ", count, "\n");
}

std::string Metrics::text(const infer::Engine::Load& load) const {
  const std::lock_guard lock(mutex_);
  std::string text = concat(header("fbi_build_info", "gauge", "The program that answers."),
                            "fbi_build_info{version=\"", version(), "\"} 1\n");
  text += header("fbi_http_requests_total", "counter", "Requests by the status of their answer.");
  for (const auto& [labels, count] : requests_) {
    text += concat("fbi_http_requests_total{endpoint=\"", labels.first, "\",status=\"",
                   labels.second, "\"} ", count, "\n");
  }
  text += header("fbi_completions_total", "counter",
                 "Answers with texts, by how they ended; cancelled: the client has gone.");
  for (const auto& [outcome, count] : completions_) {
    text += concat("fbi_completions_total{outcome=\"", name_of(outcome), "\"} ", count, "\n");
  }
  text += single("fbi_prompt_tokens_total", "counter", "Tokens of the prompts of these answers.",
                 usage_.prompt_tokens);
  text += single("fbi_prompt_tokens_cached_total", "counter",
                 "Of these, those that other texts had read.", usage_.cached_tokens);
  text += single("fbi_generated_tokens_total", "counter",
                 "Tokens of their texts that were written to the end.", usage_.new_tokens);
  text += single("fbi_texts_running", "gauge", "Texts that are being written.", load.running);
  text += single("fbi_texts_waiting", "gauge", "Texts that wait for that.", load.waiting);
  text += histogram("fbi_time_to_first_token_seconds",
                    "From a text's request to its first token, the wait included.", first_token_);
  text +=
      histogram("fbi_time_per_token_seconds", "Of a text, the mean of its further tokens.", token_);
  text += histogram("fbi_completion_seconds", "Whole answers, until the client has taken them.",
                    completion_);
  return text;
}

}  // namespace fbi::serve
