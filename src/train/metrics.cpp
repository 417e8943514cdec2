#include "fbi/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "fbi/core/log.h"

namespace fbi::train {
namespace {

using Json = nlohmann::ordered_json;

/// JSON has no NaN or infinity.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

}  // namespace

std::string metrics_line(const StepMetrics& metrics, const config::ObjectiveConfig& objective,
                         const Pace& pace) {
  Json line;
  line["step"] = metrics.step;
  line["tokens"] = metrics.tokens;
  line["loss"] = number(metrics.loss);
  line["loss_next_token"] = number(metrics.loss_next_token);
  line["loss_distill"] = objective.distill > 0 ? number(metrics.loss_distill) : Json(nullptr);
  line["grad_norm"] = number(metrics.grad_norm);
  line["lr"] = metrics.lr;
  line["flip_rate"] = metrics.flip_rate;
  line["flips"] = metrics.flips;
  line["skipped"] = metrics.skipped;
  line["sample_first"] = metrics.sample_first;
  line["sample_count"] = metrics.sample_count;
  Json layers = Json::object();
  for (const auto& layer : metrics.layer_flips)
    layers[layer.name] = static_cast<double>(layer.flips) / static_cast<double>(layer.weights);
  line["layer_flip_rates"] = std::move(layers);
  Json sent = Json::object();
  for (const auto payload : distributed::kAllPayloads)
    if (const auto bytes = metrics.bytes_sent[static_cast<std::size_t>(payload)])
      sent[std::string(to_string(payload))] = bytes;
  if (!sent.empty()) line["bytes_sent"] = std::move(sent);
  Json evaluation = Json::object();
  for (const auto& found : metrics.evaluation)
    evaluation[found.data][found.metric] = number(found.value);
  if (!evaluation.empty()) line["evaluation"] = std::move(evaluation);
  line["step_seconds"] = pace.step_seconds;
  Json phases = Json::object();
  for (const Phase phase : kStepPhases) phases[std::string(to_string(phase))] = pace.phases[phase];
  line["phase_seconds"] = std::move(phases);
  line["cpu_seconds"] = pace.cpu_seconds;
  line["tokens_per_second"] = pace.tokens_per_second;
  line["flops_per_second"] = number(std::round(pace.flops_per_second));
  line["recompute_flops_per_second"] = number(std::round(pace.recompute_flops_per_second));
  line["matrix_share"] = pace.matrix_share > 0 ? Json(pace.matrix_share) : Json(nullptr);
  line["peak_memory_bytes"] = pace.memory.peak_bytes;
  if (pace.memory.peak_device_bytes > 0)
    line["peak_device_memory_bytes"] = pace.memory.peak_device_bytes;
  Json memory = Json::object();
  for (const auto& [name, bytes] : pace.memory.parts()) memory[std::string(name)] = bytes;
  line["memory_bytes"] = std::move(memory);
  return line.dump();
}

std::string flops_text(double per_second) {
  constexpr const char* kUnits[] = {"MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s"};
  std::size_t unit = 0;
  double value = per_second / 1e6;
  for (; value >= 999.95 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, kUnits[unit]);
  return text;
}

MetricsFile::MetricsFile(const std::filesystem::path& path)
    : path_(path),
      descriptor_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0)
    throw DiskError(concat("cannot append to ", path.string(), ": ", std::strerror(errno)));
}

MetricsFile::~MetricsFile() {
  ::close(descriptor_);
}

void MetricsFile::append(const std::string& line) {
  pending_ += line;
  pending_ += '\n';
  const bool was_failing = failing_;
  failing_ = !write_pending();
  if (failing_ && !was_failing)
    log::error("cannot append to ", path_.string(), ": ", std::strerror(errno),
               "; lines are kept in memory, free some space");
}

bool MetricsFile::write_pending() {
  while (!pending_.empty()) {
    const ssize_t written = ::write(descriptor_, pending_.data(), pending_.size());
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) pending_.erase(0, static_cast<std::size_t>(written));
  }
  return true;
}

void MetricsFile::sync() {
  if (!write_pending() || ::fsync(descriptor_) != 0)
    throw DiskError(
        concat("cannot write ", path_.string(), ": ", std::strerror(errno), "; free some space"));
}

}  // namespace fbi::train
