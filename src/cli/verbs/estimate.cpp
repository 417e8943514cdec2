#include <charconv>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/estimate/estimate.h"

namespace fbi::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using estimate::Estimate;

constexpr double kSecondsPerDay = 86400;

/// "80G" (10^9), "80GiB" (2^30), "512M", "1.5T", "1000".
std::int64_t parse_bytes(const std::string& option, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  double scale = 1;
  if (!unit.empty()) {
    const auto power = std::string_view("KMGT").find(unit[0]);
    const std::string rest = unit.substr(1);
    const bool known =
        power != std::string_view::npos && (rest.empty() || rest == "B" || rest == "iB");
    if (known)
      for (std::size_t i = 0; i <= power; ++i) scale *= rest == "iB" ? 1024 : 1000;
    else if (unit != "B")
      scale = 0;
  }
  if (error != std::errc() || !(value * scale > 0 && value * scale < 1e18))
    throw UsageError(
        concat("--", option, ": expected a size such as 80G or 80GiB, found '", text, "'"));
  return static_cast<std::int64_t>(value * scale);
}

double positive_number(const Arguments& arguments, const char* option) {
  const double value = arguments.number(option);
  if (!(value > 0 && std::isfinite(value)))
    throw UsageError(concat("--", option, ": expected a positive number, found ", value));
  return value;
}

struct Teacher {
  std::optional<estimate::TeacherPlan> plan;
  std::string source;
};

/// --teacher, else the folder that the configuration names.
Teacher find_teacher(const Arguments& arguments, const config::RunConfig& config, int gpus) {
  if (config.objective.distill == 0) return {};
  if (arguments.has("teacher")) {
    const std::string file = arguments.text("teacher");
    auto model = config::load_model_config(file);
    model.binarize = config::Binarize::kNone;
    config::RunConfig with_file = config;  // which messages are to name
    with_file.teacher.path = file;
    return {
        estimate::described_teacher(with_file, model, gpus, estimate::planned_processor(config)),
        "shape of " + file};
  }
  if (!fs::exists(config.teacher.path))
    throw UsageError(
        concat("teacher.path ", config.teacher.path,
               " is not on this machine; name a file with its architecture: --teacher FILE "
               "(its config.json, or a run configuration of the same shape, e.g. configs/7b.json "
               "for Llama-2-7B)"));
  return {estimate::stored_teacher(config, gpus, estimate::planned_processor(config)),
          config.teacher.path};
}

/// Tokens per second of all GPUs together, as assumed on the command line; 0: nothing was.
struct Rate {
  double tokens_per_second = 0;
  std::string assumption;
};

Rate assumed_rate(const Arguments& arguments, const Estimate& estimate) {
  if (arguments.has("tokens-per-second")) {
    if (arguments.has("mfu")) throw UsageError("give --tokens-per-second or --mfu, not both");
    const double rate = positive_number(arguments, "tokens-per-second");
    return {rate, concat("assumed ", format_rate(rate, "tokens"), " on all GPUs together")};
  }
  if (!arguments.has("mfu")) {
    if (arguments.has("peak-tflops")) throw UsageError("--peak-tflops says nothing without --mfu");
    return {};
  }
  if (!arguments.has("peak-tflops"))
    throw UsageError("--mfu needs --peak-tflops: what one GPU does at most, e.g. 989 (H100, bf16)");
  const double mfu = positive_number(arguments, "mfu");
  const double peak = positive_number(arguments, "peak-tflops");
  if (mfu > 1) throw UsageError(concat("--mfu: expected a fraction up to 1, found ", mfu));
  const double rate = mfu * peak * 1e12 * estimate.world_size / estimate.flops.without_recompute();
  return {rate, concat("assumed ", mfu, " of ", peak,
                       " TFLOP/s per GPU, recompute not counted: ", format_rate(rate, "tokens"))};
}

/// Whether a rank's memory suffices, and what to change when it does not.
struct Fit {
  std::int64_t memory = 0, reserve = 0;
  bool fits = true;
  std::vector<estimate::FittingSettings> settings;  ///< when it does not fit
};

Fit check_fit(const Arguments& arguments, const config::RunConfig& config,
              const std::optional<estimate::TeacherPlan>& teacher, const Estimate& estimate) {
  Fit fit;
  fit.memory = parse_bytes("gpu-memory", arguments.text("gpu-memory"));
  fit.reserve = parse_bytes("reserve", arguments.text("reserve"));
  const std::int64_t budget = fit.memory - fit.reserve;
  fit.fits = estimate::total_bytes(estimate.memory.peak().bytes) <= budget;
  if (!fit.fits)
    fit.settings = estimate::find_fitting_settings(config, teacher, estimate.world_size,
                                                   estimate::planned_processor(config), budget);
  return fit;
}

std::string fit_text(const Fit& fit) {
  const std::string room = concat(format_bytes(fit.memory), " less ", format_bytes(fit.reserve),
                                  " for driver, libraries and fragments");
  if (fit.fits) return concat("            fits into ", room, "\n");
  std::string out = concat("            DOES NOT FIT into ", room, "; ");
  if (fit.settings.empty())
    return out +
           "no setting of recompute, working_copy, micro_batch, gradient_dtype,\n            "
           "shard_gradients and shard_teacher helps enough: take more GPUs or larger ones\n";
  out += fit.settings.size() == 1 ? "it would with\n" : "it would with one of\n";
  for (const auto& way : fit.settings) {
    out += "           ";
    for (const auto& change : way.changes) out += " --set " + change;
    out += concat("   ", format_bytes(estimate::total_bytes(way.estimate.memory.peak().bytes)),
                  ", ", format_bytes(way.estimate.traffic.total()), " sent per step, ",
                  std::llround(way.estimate.flops.total() / 1e9), " GFLOP per token\n");
  }
  return out;
}

std::string time_text(const Rate& rate, const Estimate& estimate) {
  if (rate.assumption.empty())
    return "time        unknown: give --tokens-per-second, or --mfu with --peak-tflops\n";
  const double seconds = estimate.tokens() / rate.tokens_per_second;
  return concat("time        ", format_duration(seconds), " (", rate.assumption, ")\n");
}

std::string report(const config::RunConfig& config, const Teacher& teacher,
                   const Estimate& estimate, const Fit& fit, const Rate& rate) {
  return estimate::model_report(config.model) +
         estimate::teacher_report(teacher.plan, teacher.source) +
         estimate::run_report(config, estimate) + estimate::memory_report(estimate) +
         fit_text(fit) + estimate::traffic_report(estimate) + estimate::flops_report(estimate) +
         time_text(rate, estimate) + estimate::disk_report(estimate);
}

Json by_kind(const estimate::MemoryByKind& bytes) {
  Json json;
  for (std::size_t kind = 0; kind < estimate::kMemoryKinds; ++kind)
    json[std::string(to_string(static_cast<estimate::MemoryKind>(kind)))] = bytes[kind];
  json["total"] = estimate::total_bytes(bytes);
  return json;
}

Json memory_json(const estimate::MemoryEstimate& memory) {
  Json json{{"peak_phase", memory.peak().name},
            {"peak", by_kind(memory.peak().bytes)},
            {"constant", by_kind(memory.constant)}};
  for (const auto& phase : memory.phases) json["phases"][phase.name] = by_kind(phase.bytes);
  return json;
}

Json traffic_json(const estimate::TrafficEstimate& t) {
  return {{"gradients", t.gradients},
          {"bits", t.bits},
          {"values", t.values},
          {"scales", t.scales},
          {"teacher", t.teacher},
          {"control", t.control},
          {"total", t.total()},
          {"bf16_gathers_of_linears", t.bf16_gathers_of_linears},
          {"bf16_gathers", t.bf16_gathers}};
}

Json fit_json(const Fit& fit) {
  Json json{{"gpu_memory", fit.memory},
            {"reserve", fit.reserve},
            {"fits", fit.fits},
            {"settings_that_fit", Json::array()}};
  for (const auto& way : fit.settings)
    json["settings_that_fit"].push_back({{"changes", way.changes},
                                         {"memory", by_kind(way.estimate.memory.peak().bytes)},
                                         {"traffic", way.estimate.traffic.total()},
                                         {"flops_per_token", way.estimate.flops.total()}});
  return json;
}

Json to_json(const config::RunConfig& config, const Teacher& teacher, const Estimate& estimate,
             const Fit& fit, const Rate& rate) {
  const auto& f = estimate.flops;
  Json json{{"gpus", estimate.world_size},
            {"parameters", config::parameter_counts(config.model).total()},
            {"teacher_parameters",
             teacher.plan ? Json(config::parameter_counts(teacher.plan->model).total()) : Json()},
            {"micro_steps", estimate.micro_steps},
            {"tokens_per_step", estimate.tokens_per_step},
            {"steps", estimate.steps},
            {"tokens", estimate.tokens()},
            {"memory", memory_json(estimate.memory)},
            {"fit", fit_json(fit)},
            {"traffic", traffic_json(estimate.traffic)},
            {"flops_per_token",
             {{"student", f.student},
              {"recompute", f.recompute},
              {"teacher", f.teacher},
              {"total", f.total()}}},
            {"tokens_per_second", nullptr},
            {"days", nullptr},
            {"checkpoint_bytes", estimate.checkpoint_bytes},
            {"disk_bytes", estimate.disk_bytes}};
  if (rate.assumption.empty()) return json;
  json["tokens_per_second"] = rate.tokens_per_second;
  json["days"] = estimate.tokens() / rate.tokens_per_second / kSecondsPerDay;
  return json;
}

int run_estimate(const Arguments& arguments) {
  const std::int64_t gpus = arguments.integer("gpus", 1, 1'000'000);
  config::LoadOptions load;
  load.overrides = arguments.list("set");
  load.world_size = gpus;
  const auto config = config::load_run_config(arguments.text("config"), load);
  const Teacher teacher = find_teacher(arguments, config, static_cast<int>(gpus));
  const Estimate estimate = estimate::estimate(config, teacher.plan, static_cast<int>(gpus),
                                               estimate::planned_processor(config));
  const Fit fit = check_fit(arguments, config, teacher.plan, estimate);
  const Rate rate = assumed_rate(arguments, estimate);
  if (arguments.has("json"))
    std::cout << to_json(config, teacher, estimate, fit, rate).dump(1) << "\n";
  else
    std::cout << report(config, teacher, estimate, fit, rate);
  return 0;
}

}  // namespace

Verb estimate_verb() {
  return {
      "estimate",
      "memory, traffic, arithmetic, time and disk of a run on N GPUs, before it is started",
      "Computes from the configuration alone what every GPU must hold (by kind, at the peak of a "
      "step), what it sends per step, the "
      "operations per token with the teacher's share, and the size of checkpoints; says whether it "
      "fits and, if not, with which settings it would. "
      "Exit code 0 either way. Needs no GPU and no data, and of the teacher only its architecture.",
      "",
      {{"config", "FILE", "run configuration, e.g. configs/7b.json", "", true},
       {"set", "KEY=VALUE", "change a field of it, e.g. train.micro_batch=4", "", false, true},
       {"gpus", "N", "GPUs of the run, one rank each", "", true},
       {"gpu-memory", "SIZE", "of one GPU: 80G is 80·10^9 bytes, 80GiB 80·2^30", "80G"},
       {"reserve", "SIZE",
        "of that, what driver, libraries, NCCL and fragments take: an assumption", "3G"},
       {"teacher", "FILE",
        "architecture of a teacher that is not on this machine: its config.json, or a run "
        "configuration whose model has its shape; "
        "weights count 2 bytes, or as teacher.dtype says"},
       {"tokens-per-second", "RATE", "assumed rate of all GPUs together"},
       {"mfu", "FRACTION", "or: assumed share of --peak-tflops, recompute not counted as work"},
       {"peak-tflops", "NUMBER",
        "what one GPU does at most, in 10^12 operations per second, e.g. 989 for an H100 in bf16"},
       {"json", "", "print JSON, bytes and operations as numbers"}},
      {"fbi-llm estimate --config configs/7b.json --gpus 8 --gpu-memory 80G --teacher "
       "configs/7b.json",
       "fbi-llm estimate --config configs/7b.json --gpus 32 --teacher configs/7b.json --mfu 0.4 "
       "--peak-tflops 989 --json"},
      run_estimate};
}

}  // namespace fbi::cli
