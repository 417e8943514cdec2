#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/Device.h>

namespace fbi::train {

/// What the time of a run goes to.
enum class Phase {
  kData,     ///< waiting for samples
  kTeacher,  ///< its hidden states; its head belongs to the loss
  kForward,
  kLoss,      ///< both heads and the loss, with the gradients of logits, hidden states and the
              ///< student's head
  kBackward,  ///< with the second forward of train.recompute
  kReduce,    ///< waiting for sums over ranks, forming gradients of scales and the norm
  kUpdate,
  kOther,  ///< of a step: what lies between the others
  kEvaluation,
  kCheckpoint,
};
inline constexpr std::size_t kPhases = 10;
inline constexpr std::array kStepPhases{Phase::kData,   Phase::kTeacher,  Phase::kForward,
                                        Phase::kLoss,   Phase::kBackward, Phase::kReduce,
                                        Phase::kUpdate, Phase::kOther};
std::string_view to_string(Phase phase);  ///< e.g. "backward"

/// Seconds by phase.
class PhaseSeconds {
 public:
  double& operator[](Phase phase) { return seconds_[static_cast<std::size_t>(phase)]; }
  double operator[](Phase phase) const { return seconds_[static_cast<std::size_t>(phase)]; }

 private:
  std::array<double, kPhases> seconds_{};
};

/// Where the time of a run goes, told by spans that the one thread which trains opens around its
/// work. Spans nest; the time of an inner span counts for its phase alone. On a CPU the clock is
/// the wall clock. A GPU works on after the call that asked for something has returned; there both
/// ends of a span are events in its stream, so that phases share the time of the device, and
/// waiting for data or other ranks counts as far as the device stood still.
///
/// While a trace is taken every span is kept as well, and a GPU is waited for at both ends of each,
/// measured by the wall clock: the trace shows how long the parts take, in a run that is slower
/// than without.
class Timeline {
 public:
  using Clock = std::int64_t (*)();  ///< nanoseconds from any moment on

  class [[nodiscard]] Span {
   public:
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;
    ~Span() noexcept(false);  ///< may throw what a failing device throws, never while another
                              ///< exception is under way
    /// Ends here, and what follows is one of `phase`.
    void next(Phase phase) { timeline_.next(phase); }

   private:
    friend class Timeline;
    explicit Span(Timeline& timeline);
    Timeline& timeline_;
    int exceptions_;
  };

  explicit Timeline(c10::Device device);
  Timeline(c10::Device device, Clock clock);  ///< with another wall clock
  ~Timeline();

  /// Lasts until the result goes; `name` and `number` ("step", 3) are for the trace.
  Span span(Phase phase, std::string_view name, std::int64_t number);
  Span span(Phase phase) { return span(phase, to_string(phase), -1); }
  /// For the trace: a part of the innermost open span has ended that began where its last part or
  /// inner span ended, or with it.
  void part(std::string_view name, std::int64_t number);

  /// What has passed since the last call, open spans included. Waits for a GPU.
  PhaseSeconds take_seconds();

  /// Outside of all spans, both.
  void start_trace();
  /// The spans since then, as JSON in Chrome's trace format, which Perfetto reads too: one process
  /// per rank, times in microseconds since start_trace().
  std::string finish_trace(int rank);
  bool is_tracing() const { return trace_.has_value(); }

 private:
  class DeviceClock;
  struct TraceSpan {
    std::string name;
    Phase phase;
    std::int64_t begin, end;
  };

  std::int64_t edge();
  void next(Phase phase);
  void end();
  void keep_innermost(std::int64_t end);

  c10::Device device_;
  Clock clock_;
  std::unique_ptr<DeviceClock> device_clock_;  ///< on a GPU, but not while a trace is taken
  std::vector<TraceSpan> open_;  ///< outermost first; names and ends are for the trace
  std::array<std::int64_t, kPhases> nanoseconds_{};
  std::int64_t edge_ = 0;  ///< when a span last began or ended
  std::optional<std::vector<TraceSpan>> trace_;
  std::int64_t trace_begin_ = 0;
};

}  // namespace fbi::train
