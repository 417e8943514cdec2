#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "fbi/config/load.h"
#include "fbi/core/file.h"
#include "fbi/estimate/estimate.h"
#include "fbi/train/timeline.h"
#include "train/matrix_rate.h"
#include "train/pace_meter.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

using estimate::MemoryKind;

std::int64_t now_seconds = 0;
std::int64_t test_clock() {
  return now_seconds * 1'000'000'000;
}

TEST(Timeline, TimeOfAnInnerSpanCountsForItAlone) {
  Timeline timeline(at::kCPU, test_clock);
  now_seconds += 100;  // outside of all spans
  {
    const auto whole = timeline.span(Phase::kOther, "step", 1);
    now_seconds += 1;
    auto phase = timeline.span(Phase::kForward);
    now_seconds += 10;
    phase.next(Phase::kBackward);
    now_seconds += 20;
    {
      const auto reducing = timeline.span(Phase::kReduce);
      now_seconds += 3;
    }
    now_seconds += 7;
  }
  const PhaseSeconds seconds = timeline.take_seconds();
  EXPECT_EQ(seconds[Phase::kOther], 1);
  EXPECT_EQ(seconds[Phase::kForward], 10);
  EXPECT_EQ(seconds[Phase::kBackward], 27);
  EXPECT_EQ(seconds[Phase::kReduce], 3);
  EXPECT_EQ(timeline.take_seconds()[Phase::kBackward], 0);
}

TEST(Timeline, ASpanThatAnExceptionEndsLeavesTheOthersAsTheyAre) {
  Timeline timeline(at::kCPU, test_clock);
  const auto whole = timeline.span(Phase::kUpdate);
  try {
    const auto failing = timeline.span(Phase::kCheckpoint);
    now_seconds += 5;
    throw std::runtime_error("disk full");
  } catch (const std::runtime_error&) {
  }
  now_seconds += 2;
  const PhaseSeconds seconds = timeline.take_seconds();
  EXPECT_EQ(seconds[Phase::kCheckpoint], 0);
  EXPECT_EQ(seconds[Phase::kUpdate], 7);
}

/// A span of a trace file, with what lies directly in it.
struct Node {
  std::string name, category;
  std::int64_t begin = 0, end = 0;  // nanoseconds
  std::vector<Node> inner;

  std::vector<std::string> inner_names() const {
    std::vector<std::string> names;
    for (const auto& node : inner) names.push_back(node.name);
    return names;
  }
};

using Events = std::vector<nlohmann::json>;

/// Takes the spans from `next` on that lie in `outer`, which the file has right behind it.
void take_inner(const Events& events, std::size_t& next, Node& outer) {
  while (next < events.size()) {
    Node node{events[next].at("name"), events[next].at("cat"),
              std::llround(events[next].at("ts").get<double>() * 1000)};
    node.end = node.begin + std::llround(events[next].at("dur").get<double>() * 1000);
    if (node.begin >= outer.end) return;
    ASSERT_GE(node.begin, outer.begin) << node.name;
    ASSERT_LE(node.end, outer.end) << node.name << " goes on after " << outer.name;
    ++next;
    take_inner(events, next, node);
    outer.inner.push_back(std::move(node));
  }
}

Node read_trace(const std::filesystem::path& path) {
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  Events spans;
  for (const auto& event : json.at("traceEvents")) {
    EXPECT_EQ(event.at("pid"), 0);
    EXPECT_EQ(event.at("tid"), 0);
    if (event.at("ph") == "X") spans.push_back(event);
  }
  Node run{"run", "", 0, std::numeric_limits<std::int64_t>::max(), {}};
  std::size_t next = 0;
  take_inner(spans, next, run);
  EXPECT_EQ(next, spans.size());
  return run;
}

/// Each begins in the very moment in which the one before it ended.
void expect_no_gaps(const std::vector<Node>& nodes) {
  for (std::size_t i = 1; i < nodes.size(); ++i)
    EXPECT_EQ(nodes[i].begin, nodes[i - 1].end) << nodes[i].name << " after " << nodes[i - 1].name;
}

void expect_micro_step(const Node& node, bool reduces) {
  using Names = std::vector<std::string>;
  ASSERT_EQ(node.inner_names(), (Names{"data", "teacher", "forward", "loss", "backward"}));
  expect_no_gaps(node.inner);
  const Node& forward = node.inner[2];
  EXPECT_EQ(forward.inner_names(), (Names{"stage 0", "stage 1", "stage 2"}));
  EXPECT_EQ(forward.inner.front().begin, forward.begin);
  expect_no_gaps(forward.inner);
  EXPECT_EQ(node.inner[4].inner_names(), reduces ? (Names{"reduce", "stage 2", "reduce", "stage 1",
                                                          "reduce", "stage 0", "reduce", "reduce"})
                                                 : (Names{"stage 2", "stage 1", "stage 0"}));
}

TEST(Trace, HoldsTheFirstStepsAndChangesNoNumber) {
  TinyRuns runs;
  config::RunConfig config = runs.config("kd");
  config.train.steps = 4;
  config.optimizer.warmup_steps = 1;
  config.checkpoint.every_steps = 2;
  runs.run(config, "plain");
  runs.profile_steps = 2;
  runs.run(config, "traced");
  EXPECT_EQ(metrics_lines(runs.path("traced")), metrics_lines(runs.path("plain")));
  EXPECT_FALSE(std::filesystem::exists(runs.path("plain") / "trace.json"));

  const Node run = read_trace(runs.path("traced") / "trace.json");
  ASSERT_EQ(run.inner_names(), (std::vector<std::string>{"step 1", "step 2", "checkpoint"}));
  for (int i = 0; i < 2; ++i) {
    const Node& step = run.inner[static_cast<std::size_t>(i)];
    ASSERT_EQ(step.inner_names(),
              (std::vector<std::string>{"micro-step 0", "micro-step 1", "reduce", "update"}));
    EXPECT_EQ(step.inner[2].end, step.inner[3].begin);
    expect_micro_step(step.inner[0], false);
    expect_micro_step(step.inner[1], true);
  }
}

TEST(Trace, IsWrittenWhenTheRunEndsFirst) {
  TinyRuns runs;
  config::RunConfig config = runs.config("dense");
  config.train.steps = 2;
  config.optimizer.warmup_steps = 1;
  runs.profile_steps = 100;
  runs.run(config, "short");
  EXPECT_EQ(read_trace(runs.path("short") / "trace.json").inner_names(),
            (std::vector<std::string>{"step 1", "step 2", "checkpoint"}));
}

TEST(Meters, AreInEveryLineOfMetrics) {
  TinyRuns runs;
  config::RunConfig config = runs.config("mixed");
  config.train.steps = 3;
  config.train.recompute = true;
  config.optimizer.warmup_steps = 1;
  runs.run(config, "run");
  config::resolve(config, 1);
  const auto teacher = estimate::stored_teacher(config, 1, estimate::Processor::kCpu);
  const estimate::TokenFlops flops = estimate::token_flops(config, &teacher->model);
  std::ifstream file(runs.path("run") / "metrics.jsonl");
  int lines = 0;
  for (std::string text; std::getline(file, text); ++lines) {
    const auto line = nlohmann::json::parse(text);
    const double step = line.at("step_seconds");
    double sum = 0;
    for (const Phase phase : kStepPhases) {
      const double seconds = line.at("phase_seconds").at(std::string(to_string(phase)));
      EXPECT_GE(seconds, 0) << to_string(phase);
      sum += seconds;
    }
    EXPECT_NEAR(sum, step, 1e-8);  // nine values in whole nanoseconds
    // 32 tokens per step; rates are rounded to whole numbers.
    EXPECT_NEAR(line.at("flops_per_second").get<double>() * step, 32 * flops.without_recompute(),
                step);
    EXPECT_NEAR(line.at("recompute_flops_per_second").get<double>() * step, 32 * flops.recompute,
                step);
    EXPECT_TRUE(line.at("matrix_share").is_null());
  }
  EXPECT_EQ(lines, 3);
}

TEST(Meters, PeakMemoryIsSortedByKind) {
  TinyRuns runs;
  config::RunConfig config = runs.config("kd");
  config.train.steps = 3;
  config.optimizer.warmup_steps = 1;
  runs.run(config, "run");
  config::resolve(config, 1);
  const auto expected =
      estimate::estimate(config, estimate::stored_teacher(config, 1, estimate::Processor::kCpu), 1,
                         estimate::Processor::kCpu)
          .memory.constant;
  std::ifstream metrics(runs.path("run") / "metrics.jsonl");
  for (std::string text; std::getline(metrics, text);) {
    const auto line = nlohmann::json::parse(text);
    const auto& memory = line.at("memory_bytes");
    std::int64_t sum = 0;
    for (const auto& part : memory) sum += part.get<std::int64_t>();
    EXPECT_EQ(sum, line.at("peak_memory_bytes").get<std::int64_t>());
    EXPECT_GT(memory.at("program"), 0);
    for (const MemoryKind kind :
         {MemoryKind::kLatent, MemoryKind::kMoments, MemoryKind::kBits, MemoryKind::kValues,
          MemoryKind::kGradients, MemoryKind::kTeacher})
      EXPECT_EQ(memory.at(std::string(to_string(kind))), expected[static_cast<std::size_t>(kind)])
          << to_string(kind);
  }
  const std::string log = read_file(runs.path("run") / "train.log");
  std::size_t reports = 0;
  for (auto at = log.find("memory at most "); at != std::string::npos;
       at = log.find("memory at most ", at + 1))
    ++reports;
  EXPECT_EQ(reports, 2u);  // after the first steps, and at the end
}

TEST(MemoryUse, PartsMakeUpThePeakOfTheDevice) {
  MemoryUse use;
  use.peak_bytes = 9'000;
  use.program_bytes = 3'000;
  use.held[static_cast<std::size_t>(MemoryKind::kBits)] = 100;
  use.held[static_cast<std::size_t>(MemoryKind::kTeacher)] = 1'900;
  EXPECT_EQ(use.text(),
            "memory at most 9.0 KB: bits 100 B, teacher 1.9 KB, program 3.0 KB, rest 4.0 KB");
  use.peak_device_bytes = 2'500;
  EXPECT_EQ(use.text(), "memory at most 2.5 KB: bits 100 B, teacher 1.9 KB, rest 500 B");
}

TEST(MemoryUse, WhatIsHeldButNotResidentLeavesNoRest) {
  MemoryUse use;
  use.peak_bytes = 1'500;
  use.program_bytes = 1'000;
  use.held[static_cast<std::size_t>(MemoryKind::kMoments)] = 2'000;
  EXPECT_EQ(use.text(), "memory at most 1.5 KB: moments 2.0 KB, rest 0 B");
}

TEST(Meters, LongRunsMeasureWhatTheirProductsCouldDo) {
  TinyRuns runs;
  config::RunConfig config = runs.config();
  config.train.steps = 1'000'000'000;
  config::resolve(config, 1);
  const nn::LlamaForCausalLM student(config.model, {});
  PaceMeter meter(config, student, nullptr, 1);
  ASSERT_EQ(meter.matrix_rates().size(), 1u);
  const double rate = meter.matrix_rates().at("fp32");
  EXPECT_GT(rate, 0);
  const Pace pace = meter.add(2.0, 1.0, {}, 10);
  EXPECT_EQ(pace.phases[Phase::kOther], 2.0);
  EXPECT_DOUBLE_EQ(pace.matrix_share, pace.flops_per_second / rate);
  EXPECT_EQ(pace.tokens_per_second, 16);
  EXPECT_EQ(pace.eta_seconds, 20);
  PhaseSeconds pause;
  pause[Phase::kEvaluation] = 3;
  pause[Phase::kCheckpoint] = 1;
  EXPECT_EQ(meter.add(2.0, 1.0, pause, 10).eta_seconds, 40) << "4 s in 2 steps are 2 s a step";
}

TEST(Meters, RanksShareTheTokensOfAStep) {
  TinyRuns runs;
  config::RunConfig config = runs.config();
  config::resolve(config, 2);
  const nn::LlamaForCausalLM student(config.model, {});
  PaceMeter one(config, student, nullptr, 1), two(config, student, nullptr, 2);
  EXPECT_TRUE(two.matrix_rates().empty());
  const Pace pace = two.add(1.0, 1.0, {}, 0);
  EXPECT_DOUBLE_EQ(2 * pace.flops_per_second, one.add(1.0, 1.0, {}, 0).flops_per_second);
  EXPECT_EQ(pace.tokens_per_second, 32);
  EXPECT_EQ(pace.matrix_share, 0);
}

TEST(MatrixRate, IsMeasuredInEveryType) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kFloat8_e4m3fn}) {
    const double rate = measure_matrix_rate(dtype, at::kCPU);
    EXPECT_TRUE(std::isfinite(rate) && rate > 0) << dtype;
  }
}

TEST(FlopsText, ChoosesTheUnit) {
  EXPECT_EQ(flops_text(2.94e12), "2.9 TFLOP/s");
  EXPECT_EQ(flops_text(999.96e9), "1.0 TFLOP/s");
  EXPECT_EQ(flops_text(5e5), "0.5 MFLOP/s");
}

}  // namespace
}  // namespace fbi::train
