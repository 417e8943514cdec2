#include "fbi/train/timeline.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "fbi/core/error.h"

namespace fbi::train {
namespace {

std::int64_t wall_clock() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

std::string numbered(std::string_view name, std::int64_t number) {
  return number < 0 ? std::string(name) : concat(name, " ", number);
}

}  // namespace

std::string_view to_string(Phase phase) {
  constexpr std::string_view kNames[kPhases] = {"data",       "teacher",   "forward", "loss",
                                                "backward",   "reduce",    "update",  "other",
                                                "evaluation", "checkpoint"};
  return kNames[static_cast<std::size_t>(phase)];
}

/// Ends of spans as events in the stream of a GPU; they are read when its work is done.
class Timeline::DeviceClock {
 public:
  explicit DeviceClock(c10::Device device) : device_(device), gpu_(device.type()) {}

  /// What the device has done since the last edge was for `phase`.
  void edge(std::optional<Phase> phase) {
    if (used_ == edges_.size())
      edges_.push_back({c10::Event(device_.type(), c10::EventFlag::BACKEND_DEFAULT), {}});
    edges_[used_].event.record(gpu_.getStream(device_));
    edges_[used_++].phase = phase;
  }

  PhaseSeconds take() {
    edges_[used_ - 1].event.synchronize();
    PhaseSeconds seconds;
    for (std::size_t i = 1; i < used_; ++i)
      if (const auto phase = edges_[i].phase)
        seconds[*phase] += 1e-3 * edges_[i - 1].event.elapsedTime(edges_[i].event);
    std::swap(edges_[0], edges_[used_ - 1]);  // the last edge begins what follows
    used_ = 1;
    return seconds;
  }

 private:
  struct Edge {
    c10::Event event;
    std::optional<Phase> phase;
  };
  c10::Device device_;
  c10::impl::VirtualGuardImpl gpu_;
  std::vector<Edge> edges_;  ///< kept for the next step
  std::size_t used_ = 0;
};

Timeline::Timeline(c10::Device device) : Timeline(device, wall_clock) {}

Timeline::Timeline(c10::Device device, Clock clock) : device_(device), clock_(clock) {
  if (device_.is_cuda()) device_clock_ = std::make_unique<DeviceClock>(device_);
}

Timeline::~Timeline() = default;

Timeline::Span::Span(Timeline& timeline)
    : timeline_(timeline), exceptions_(std::uncaught_exceptions()) {}

/// A span that an exception ends has no end on the clock: to wait for a GPU could then take
/// forever.
Timeline::Span::~Span() noexcept(false) {
  if (std::uncaught_exceptions() > exceptions_)
    timeline_.open_.pop_back();
  else
    timeline_.end();
}

/// A span begins or ends now: the time since the last edge was that of the innermost span.
std::int64_t Timeline::edge() {
  if (device_clock_) {
    device_clock_->edge(open_.empty() ? std::nullopt : std::optional(open_.back().phase));
    return 0;
  }
  if (device_.is_cuda())
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
  const std::int64_t now = clock_();
  if (!open_.empty()) nanoseconds_[static_cast<std::size_t>(open_.back().phase)] += now - edge_;
  edge_ = now;
  return now;
}

Timeline::Span Timeline::span(Phase phase, std::string_view name, std::int64_t number) {
  const std::int64_t now = edge();
  open_.push_back({trace_ ? numbered(name, number) : std::string(), phase, now, 0});
  return Span(*this);
}

void Timeline::next(Phase phase) {
  const std::int64_t now = edge();
  keep_innermost(now);
  open_.back() = {trace_ ? std::string(to_string(phase)) : std::string(), phase, now, 0};
}

void Timeline::end() {
  keep_innermost(edge());
  open_.pop_back();
}

void Timeline::keep_innermost(std::int64_t end) {
  if (!trace_) return;
  open_.back().end = end;
  trace_->push_back(open_.back());
}

void Timeline::part(std::string_view name, std::int64_t number) {
  if (!trace_) return;
  const std::int64_t begin = edge_;
  trace_->push_back({numbered(name, number), open_.back().phase, begin, edge()});
}

PhaseSeconds Timeline::take_seconds() {
  edge();
  if (device_clock_) return device_clock_->take();
  PhaseSeconds seconds;
  for (std::size_t i = 0; i < kPhases; ++i)
    seconds[static_cast<Phase>(i)] = static_cast<double>(std::exchange(nanoseconds_[i], 0)) / 1e9;
  return seconds;
}

void Timeline::start_trace() {
  take_seconds();
  device_clock_.reset();
  trace_.emplace();
  trace_begin_ = edge();
}

std::string Timeline::finish_trace(int rank) {
  auto spans = std::move(*trace_);
  trace_.reset();
  if (device_.is_cuda()) device_clock_ = std::make_unique<DeviceClock>(device_);
  // An outer span before its inner ones, which ended first.
  std::reverse(spans.begin(), spans.end());
  std::stable_sort(spans.begin(), spans.end(), [](const TraceSpan& a, const TraceSpan& b) {
    return std::make_tuple(a.begin, -a.end) < std::make_tuple(b.begin, -b.end);
  });
  const auto microseconds = [](std::int64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1000;
  };
  const auto named = [&](const char* what, const std::string& name) {
    return nlohmann::ordered_json{
        {"ph", "M"}, {"name", what}, {"pid", rank}, {"tid", 0}, {"args", {{"name", name}}}};
  };
  nlohmann::ordered_json events = {named("process_name", concat("rank ", rank)),
                                   named("thread_name", "training")};
  for (const auto& span : spans)
    events.push_back({{"ph", "X"},
                      {"name", span.name},
                      {"cat", std::string(to_string(span.phase))},
                      {"pid", rank},
                      {"tid", 0},
                      {"ts", microseconds(span.begin - trace_begin_)},
                      {"dur", microseconds(span.end - span.begin)}});
  return nlohmann::ordered_json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}
             .dump() +
         "\n";
}

}  // namespace fbi::train
