#include "cli/run_display.h"

#include <cstdio>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"

namespace fbi::cli {
namespace {

std::string formatted(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// "2.9 TFLOP/s (61% of matrix products)"
std::string device_text(const train::Pace& pace) {
  std::string out = train::flops_text(pace.flops_per_second);
  if (pace.matrix_share > 0)
    out += formatted(" (%.0f%% of matrix products)", 100 * pace.matrix_share);
  return out;
}

/// Those that take a twentieth of the step or more: " forward 25% loss 10% backward 52%".
std::string phases_text(const train::Pace& pace) {
  std::string out;
  for (const train::Phase phase : train::kStepPhases) {
    const double share = pace.phases[phase] / pace.step_seconds;
    if (share >= 0.05)
      out += concat(" ", train::to_string(phase), formatted(" %.0f%%", 100 * share));
  }
  return out;
}

/// Behind spaces, at least `width` characters.
std::string right(const std::string& text, std::size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

}  // namespace

void RunDisplay::on_start(const config::RunConfig& config, std::int64_t first_step) {
  config_ = config;
  first_step_ = first_step;
  const auto size = config::parameter_counts(config.model);
  log::info("model: ", format_count(size.total()), " parameters, of them ",
            format_count(size.binarized), " at one bit");
  log::info("steps ", first_step, " to ", config.train.steps, ", ", config.train.global_batch,
            " samples of ", config.train.seq_len, " tokens each: ", world_size_,
            world_size_ == 1 ? " rank x " : " ranks x ",
            config::micro_steps_per_step(config.train, world_size_), " micro-steps, ",
            to_string(config.train.precision));
}

std::string RunDisplay::line(const train::StepMetrics& metrics, const train::Pace& pace) const {
  const std::string steps = concat(config_.train.steps);
  std::string out = concat("step ", right(concat(metrics.step), steps.size()), "/", steps,
                           right(concat(metrics.step * 100 / config_.train.steps, "%"), 6),
                           "  loss ", right(formatted("%.4f", metrics.loss), 7), "  norm ",
                           right(formatted("%.3f", metrics.grad_norm), 6));
  if (config_.model.binarize != config::Binarize::kNone)
    out += concat("  flips ", formatted("%.3f%%", 100 * metrics.flip_rate));
  out += concat("  ", right(format_rate(pace.tokens_per_second, "tokens"), 15), "  ETA ",
                format_duration(pace.eta_seconds));
  if (metrics.skipped) out += "  SKIPPED: loss or gradient norm is not finite";
  return out;
}

std::string RunDisplay::details(const train::StepMetrics& metrics, const train::Pace& pace) const {
  std::string out = concat("step ", metrics.step, ": lr ", formatted("%.2e", metrics.lr));
  if (config_.objective.next_token > 0 && config_.objective.distill > 0)
    out += concat(", loss next ", formatted("%.4f", metrics.loss_next_token), " distill ",
                  formatted("%.4f", metrics.loss_distill));
  return concat(out, ", ", device_text(pace), ", memory ", format_bytes(resident_bytes()), ", time",
                phases_text(pace));
}

void RunDisplay::on_step(const train::StepMetrics& metrics, const train::Pace& pace) {
  // The first one, too: large steps take minutes, and people wait for a sign.
  const bool due = metrics.step % config_.log.every_steps == 0 || metrics.step == first_step_ + 1 ||
                   metrics.step == config_.train.steps || metrics.skipped;
  if (due) {
    bar_.clear();
    log::info(line(metrics, pace));
    log::debug(details(metrics, pace));
  }
  if (!metrics.evaluation.empty()) {
    bar_.clear();
    std::vector<std::string> texts;
    for (const auto& found : metrics.evaluation)
      texts.push_back(concat(found.data, " ", found.metric, " ", formatted("%.4g", found.value)));
    log::info("step ", metrics.step, "/", config_.train.steps, "  evaluation: ", join(texts));
  }
  bar_.show(metrics.step, config_.train.steps,
            concat("loss ", formatted("%.3f", metrics.loss), "  ",
                   format_rate(pace.tokens_per_second, "tokens"), "  ETA ",
                   format_duration(pace.eta_seconds)));
}

void RunDisplay::on_checkpoint(std::int64_t, const std::filesystem::path&) {
  bar_.clear();
}

}  // namespace fbi::cli
