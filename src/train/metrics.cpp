#include "fbi/train/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "fbi/core/error.h"

namespace fbi::train {
namespace {

using Json = nlohmann::ordered_json;

/// JSON has no NaN or infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::string metrics_line(const StepMetrics& metrics, const config::ObjectiveConfig& objective, const Pace& pace) {
  Json line;
  line["step"] = metrics.step;
  line["tokens"] = metrics.tokens;
  line["loss"] = number(metrics.loss);
  line["loss_next_token"] = objective.next_token > 0 ? number(metrics.loss_next_token) : Json(nullptr);
  line["loss_distill"] = objective.distill > 0 ? number(metrics.loss_distill) : Json(nullptr);
  line["grad_norm"] = number(metrics.grad_norm);
  line["lr"] = metrics.lr;
  line["flip_rate"] = metrics.flip_rate;
  line["flips"] = metrics.flips;
  line["skipped"] = metrics.skipped;
  line["sample_first"] = metrics.sample_first;
  line["sample_count"] = metrics.sample_count;
  Json layers = Json::object();
  for (const auto& [name, flips] : metrics.layer_flips) layers[name] = flips;
  line["layer_flips"] = std::move(layers);
  line["step_seconds"] = pace.step_seconds;
  line["tokens_per_second"] = pace.tokens_per_second;
  return line.dump();
}

MetricsFile::MetricsFile(const std::filesystem::path& path) : path_(path), file_(std::fopen(path.c_str(), "ab")) {
  if (!file_) throw DiskError(concat("cannot append to ", path.string(), ": ", std::strerror(errno)));
}

MetricsFile::~MetricsFile() {
  if (file_) std::fclose(file_);
}

void MetricsFile::append(const std::string& line) {
  if (std::fprintf(file_, "%s\n", line.c_str()) < 0 || std::fflush(file_) != 0)
    throw DiskError(concat("cannot append to ", path_.string(), ": ", std::strerror(errno),
                           "; free some space and resume"));
}

void MetricsFile::sync() {
  if (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0)
    throw DiskError(concat("cannot sync ", path_.string(), ": ", std::strerror(errno)));
}

}  // namespace fbi::train
