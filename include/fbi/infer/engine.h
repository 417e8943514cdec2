#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/infer/generate.h"
#include "fbi/infer/packed_model.h"
#include "fbi/text/tokenizer.h"

/// Continuous batching: many prompts at once through one packed model.
namespace fbi::infer {

/// More was asked for than the engine may hold, or it is being stopped; later there may be room.
class BusyError : public Error {
 public:
  explicit BusyError(const std::string& message) : Error(ExitCode::kStopped, message) {}
};

/// A text was given up before its end.
class CancelledError : public Error {
 public:
  explicit CancelledError(const std::string& message) : Error(ExitCode::kStopped, message) {}
};

struct EngineOptions {
  std::int64_t max_batch = 16;  ///< [1, 256]: texts that are continued at the same time
  std::int64_t queue = 256;     ///< [0, 65536]: texts that may wait for that
  /// Memory for keys and values of these texts: the next one waits until there is room for its
  /// longest form, unless it is alone.
  std::uint64_t cache_bytes = std::numeric_limits<std::uint64_t>::max();
  /// Memory for keys and values of texts that have ended, which prompts that begin like them take
  /// over; 0: none are kept.
  std::uint64_t prefix_cache_bytes = 1000000000;
};

struct EngineRequest {
  std::vector<std::int32_t> prompt;  ///< ids, BOS included; see prompt_ids()
  GenerateOptions options;           ///< add_bos has no meaning here
  /// Fill GenerateResult::scores, with so many of the most likely tokens in each place.
  std::optional<std::int64_t> score_best = {};
  bool score_prompt = false;  ///< with score_best: of the prompt, too
};

/// Texts that were asked for together. Member functions may be called from any thread. Text that
/// nobody fetches is kept; there is no more of it than the requests allow.
class Generation {
 public:
  struct News {
    std::size_t index = 0;  ///< of the request
    std::string text;       ///< what was added, whole UTF-8 characters
    bool ended = false;     ///< there will be no more
  };
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  /// What came since the last call, by index; waits for it, at most `limit`, and may then be empty.
  std::vector<News> wait(std::chrono::milliseconds limit);
  /// Whether wait() has told the end of all texts.
  bool ended() const;
  /// After its end. Times are from submit() to the first token, and from there. Throws what ended
  /// it before its time: DataError, CancelledError, CudaError.
  GenerateResult result(std::size_t index) const;
  /// Ends what has not ended; its memory is free after at most one step.
  void cancel();

 private:
  friend class Engine;
  class Impl;
  explicit Generation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A thread that feeds a packed model with the next tokens of all texts at once. Texts come and go
/// between its steps. Each is the text that generate() gives for its prompt and options. A prompt
/// that begins like another text takes over that one's keys and values instead of being fed again.
class Engine {
 public:
  /// `model` and `tokenizer` outlive the engine; nobody else calls the model meanwhile.
  Engine(PackedModel& model, const text::Tokenizer& tokenizer, const EngineOptions& options = {});
  ~Engine();  ///< cancels what has not ended
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Takes all requests or none. First come, first served. Throws UsageError (prompt, options),
  /// BusyError, and CudaError once the GPU has failed.
  std::shared_ptr<Generation> submit(const std::vector<EngineRequest>& requests);

  struct Load {
    std::int64_t running = 0, waiting = 0;
    bool stopping = false;
    /// What the GPU failed with, "" if it has not. An error of CUDA seldom passes: it has ended all
    /// texts, and no more are taken.
    std::string failure = {};
  };
  Load load() const;

  /// Takes no more requests, gives what it has the time to end, then cancels the rest.
  void stop(std::chrono::milliseconds limit);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi::infer
