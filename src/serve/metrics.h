#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fbi/infer/engine.h"
#include "serve/completion_api.h"

namespace fbi::serve {

/// What a server counts for Prometheus. By hand, because Debian's client library brings a web
/// server and curl along. Member functions may be called from any thread.
class Metrics {
 public:
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

  enum class Outcome { kDone, kCancelled, kFailed };

  Metrics();

  /// Every request, once; `endpoint` is one of a few.
  void add_request(const std::string& endpoint, int status);
  /// A text that was not given up before its end.
  void add_text(const infer::GenerateResult& result);
  /// An answer with texts. `seconds` from its acceptance on.
  void add_completion(Outcome outcome, const Usage& usage, double seconds);

  /// What an answer takes on average, 1 to 60: by then one that runs now will have ended.
  std::int64_t seconds_until_room() const;

  /// All of it in the text format 0.0.4.
  std::string text(const infer::Engine::Load& load) const;

 private:
  struct Histogram {
    explicit Histogram(std::span<const double> bounds)
        : bounds(bounds), counts(bounds.size() + 1) {}
    void observe(double value);

    std::span<const double> bounds;     // the largest value of each bucket but the last
    std::vector<std::uint64_t> counts;  // of each bucket alone
    double sum = 0;
  };
  static std::string histogram(const char* name, const char* help, const Histogram& values);

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> requests_;  // by endpoint and status
  std::map<Outcome, std::uint64_t> completions_ = {
      {Outcome::kDone, 0}, {Outcome::kCancelled, 0}, {Outcome::kFailed, 0}};
  Usage usage_;
  Histogram first_token_, token_, completion_;
};

}  // namespace fbi::serve
