#include "train/pace_meter.h"

#include <cmath>
#include <numeric>

#include "train/matrix_rate.h"

namespace fbi::train {
namespace {

constexpr std::size_t kRecentSteps =
    20;  // a mean over the whole run would hide a slow-down and count pauses

const char* dtype_name(at::ScalarType dtype) {
  return dtype == at::kFloat ? "fp32" : dtype == at::kHalf ? "fp16" : "bf16";
}

}  // namespace

PaceMeter::PaceMeter(const config::RunConfig& config, const nn::LlamaForCausalLM& student,
                     const nn::LlamaForCausalLM* teacher, int world_size)
    : step_tokens_(static_cast<double>(config.train.global_batch * config.train.seq_len)),
      rank_tokens_(step_tokens_ / world_size),
      flops_(estimate::token_flops(config, teacher ? &teacher->config() : nullptr)) {
  if (flops_.total() * rank_tokens_ * static_cast<double>(config.train.steps) < kLongRun) return;
  double token_seconds = (flops_.student - flops_.student_fp8) / matrix_rate(student.options());
  if (teacher)
    token_seconds += (flops_.teacher - flops_.teacher_fp8) / matrix_rate(teacher->options());
  if (const double fp8 = flops_.student_fp8 + flops_.teacher_fp8; fp8 > 0)
    token_seconds += fp8 / fp8_rate(student.options().device);
  products_seconds_ = rank_tokens_ * token_seconds;
}

double PaceMeter::matrix_rate(const nn::LlamaOptions& options) {
  const auto [entry, is_new] = matrix_rates_.try_emplace(dtype_name(options.compute_dtype), 0);
  if (is_new) entry->second = measure_matrix_rate(options.compute_dtype, options.device);
  return entry->second;
}

double PaceMeter::fp8_rate(at::Device device) {
  return matrix_rates_["fp8"] = measure_matrix_rate(at::kFloat8_e4m3fn, device);
}

Pace PaceMeter::add(double step_seconds, double cpu_seconds, const PhaseSeconds& phases,
                    std::int64_t steps_left) {
  recent_.push_back(step_seconds);
  if (recent_.size() > kRecentSteps) recent_.pop_front();
  const double mean =
      std::accumulate(recent_.begin(), recent_.end(), 0.0) / static_cast<double>(recent_.size());
  Pace pace;
  pace.step_seconds = step_seconds;
  pace.cpu_seconds = cpu_seconds;
  pace.tokens_per_second = step_tokens_ / mean;
  pauses_ += phases[Phase::kEvaluation] + phases[Phase::kCheckpoint];
  const double pause = pauses_ / static_cast<double>(++steps_);
  pace.eta_seconds = (mean + pause) * static_cast<double>(steps_left);
  pace.phases[Phase::kOther] = step_seconds;
  for (const Phase phase : kStepPhases) {
    if (phase == Phase::kOther) continue;
    pace.phases[phase] = phases[phase];
    pace.phases[Phase::kOther] -= phases[phase];
  }
  pace.phases[Phase::kOther] =
      std::round(pace.phases[Phase::kOther] * 1e9) / 1e9;  // whole nanoseconds, as the others
  pace.flops_per_second = flops_.without_recompute() * rank_tokens_ / step_seconds;
  pace.recompute_flops_per_second = flops_.recompute * rank_tokens_ / step_seconds;
  pace.matrix_share = products_seconds_ / step_seconds;
  return pace;
}

}  // namespace fbi::train
