#include "parity/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <sstream>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::parity {
namespace {

const std::string kModule = "model.layers.0.mlp.up_proj";

/// A recording of one binarized module with `scale_shape`, one step, and a replay that agrees with
/// it.
Trace make_trace(const std::vector<std::int64_t>& scale_shape = {1, 4}) {
  Trace trace;
  trace.pattern = scale_shape.empty() ? ops::ScalePattern::kSingle : ops::ScalePattern::kColumn;
  trace.teacher.emplace();
  trace.binarized_modules = {kModule};
  trace.optimizer = TraceOptimizer{.lr = 1e-3};
  trace.student_init = {{kModule + ".weight", at::ones({3, 4})},
                        {kModule + ".wscale", at::ones(scale_shape)},
                        {kModule + ".wbias", at::ones(scale_shape)}};
  trace.first_gradients = trace.final_parameters = trace.student_init;
  trace.effective = {{kModule + ".weight", at::ones({3, 4})}};
  trace.student_logits = trace.teacher_logits = at::ones({1, 2, 5});
  trace.micro_losses = {{5.0, 6.0, 4.0}};
  trace.steps = {{1e-3, 2.0, 1.0, {7}}};
  return trace;
}

ReplayResult agreeing(const Trace& trace) {
  ReplayResult out;
  for (const std::string suffix : {".wscale", ".wbias"})
    out.initial_scales[kModule + suffix] = trace.student_init.at(kModule + suffix).clone();
  out.student_logits = trace.student_logits.clone();
  out.teacher_logits = trace.teacher_logits.clone();
  for (const auto& [name, tensor] : trace.first_gradients) {
    out.first_gradients[name] = tensor.clone();
    out.final_parameters[name] = tensor.clone();
  }
  out.effective = {{kModule + ".weight", trace.effective.at(kModule + ".weight").clone()}};
  out.losses = trace.micro_losses;
  out.steps = trace.steps;
  return out;
}

std::vector<std::string> failures(const std::vector<Check>& checks) {
  std::vector<std::string> out;
  for (const Check& check : checks)
    if (!check.passed()) out.push_back(check.quantity);
  return out;
}

TEST(Compare, AcceptsAReplayThatAgrees) {
  const Trace trace = make_trace();
  EXPECT_EQ(failures(compare(trace, agreeing(trace))), std::vector<std::string>{});
}

TEST(Compare, NoticesEveryQuantityThatIsOff) {
  struct Case {
    std::string quantity;
    std::function<void(ReplayResult&)> change;
  };
  const Case cases[] = {
      {"initial scales", [](auto& r) { r.initial_scales[kModule + ".wbias"] += 2e-6; }},
      {"student logits", [](auto& r) { r.student_logits[0][1][2] += 2e-5; }},
      {"student logits", [](auto& r) { r.student_logits[0][1][2] = NAN; }},
      {"teacher logits", [](auto& r) { r.teacher_logits[0][0][0] -= 2e-5; }},
      {"effective weights", [](auto& r) { r.effective[kModule + ".weight"] += 2e-6; }},
      {"losses, relative", [](auto& r) { r.losses[0].loss *= 1 + 2e-5; }},
      {"losses, relative", [](auto& r) { *r.losses[0].distill *= 1 + 2e-5; }},
      {"first gradients", [](auto& r) { r.first_gradients[kModule + ".wscale"][0][0] += 2e-5; }},
      {"learning rate", [](auto& r) { r.steps[0].lr *= 1.001; }},
      {"gradient norms, relative", [](auto& r) { r.steps[0].grad_norm *= 1 + 2e-4; }},
      {"norms after clipping", [](auto& r) { r.steps[0].grad_norm_after_clip *= 1 - 2e-4; }},
      {"sign flips, sum of differences", [](auto& r) { r.steps[0].flips[0] += 1; }},
      {"final parameters beyond 1e-05",
       [](auto& r) { r.final_parameters[kModule + ".weight"][2][3] += 2e-5; }},
  };
  const Trace trace = make_trace();
  for (const Case& c : cases) {
    ReplayResult replay = agreeing(trace);
    c.change(replay);
    EXPECT_EQ(failures(compare(trace, replay)), std::vector<std::string>{c.quantity});
  }
}

TEST(Compare, ScalesThatWereTrainedBeforeAreNotJudged) {
  Trace trace = make_trace();
  trace.scales_from_weights = false;
  ReplayResult replay = agreeing(trace);
  replay.initial_scales[kModule + ".wscale"] += 0.5;
  EXPECT_EQ(failures(compare(trace, replay)), std::vector<std::string>{});
}

TEST(Compare, JudgesGradientsOfSingleScalesMoreGently) {
  const Trace trace = make_trace({});
  ReplayResult replay = agreeing(trace);
  replay.first_gradients[kModule + ".wscale"] += 5e-4;
  EXPECT_EQ(failures(compare(trace, replay)), std::vector<std::string>{});
  replay.first_gradients[kModule + ".wscale"] += 1e-3;
  EXPECT_EQ(failures(compare(trace, replay)),
            std::vector<std::string>{"first gradients of scalars"});
}

TEST(Compare, AllowsAFewFinalEntriesToDiffer) {
  Trace trace = make_trace();
  const std::string norm = "model.norm.weight";
  trace.student_init[norm] = trace.first_gradients[norm] = trace.final_parameters[norm] =
      at::zeros({20000});
  ReplayResult replay = agreeing(trace);
  replay.final_parameters[norm].slice(0, 0, 2).fill_(1.0);  // 2 of 20,020 entries
  EXPECT_EQ(failures(compare(trace, replay)), std::vector<std::string>{});
  replay.final_parameters[norm].slice(0, 0, 3).fill_(1.0);
  EXPECT_EQ(failures(compare(trace, replay)),
            std::vector<std::string>{"final parameters beyond 1e-05"});
}

TEST(Compare, MissingObservationsAreErrors) {
  const Trace trace = make_trace();
  ReplayResult replay = agreeing(trace);
  replay.final_parameters.erase(kModule + ".wbias");
  test::expect_error<DataError>([&] { compare(trace, replay); }, kModule + ".wbias");
  replay = agreeing(trace);
  replay.losses.clear();
  test::expect_error<DataError>([&] { compare(trace, replay); }, "0 losses, the recording has 1");
}

/// Distance 1 between recording and fp32 in every quantity, in units that make the arithmetic
/// plain.
ReplayResult shifted(const Trace& trace, double distance) {
  ReplayResult out = agreeing(trace);
  out.student_logits += 0.25 * distance;
  for (auto& [name, tensor] : out.first_gradients) tensor *= 1 + 0.01 * distance;
  out.losses[0] = {5.0 * (1 + 0.001 * distance), {}, {}};
  out.steps[0].grad_norm *= 1 + 0.01 * distance;
  for (auto& [name, tensor] : out.final_parameters) tensor += 1e-5 * distance;
  return out;
}

TEST(CompareBf16, DemandsNearnessToTheRecordingAndDistanceFromFp32) {
  Trace trace = make_trace();
  trace.micro_losses[0] = {5.0, {}, {}};
  // The shift of fp32 flips one sign.
  trace.final_parameters.at(kModule + ".weight")[0][0] = -1e-6;
  const ReplayResult fp32 = shifted(trace, 1);
  EXPECT_EQ(failures(compare_bf16(trace, agreeing(trace), fp32, 1.5)), std::vector<std::string>{});
  const auto plain_fp32 = failures(compare_bf16(trace, fp32, fp32, 1.5));
  EXPECT_EQ(plain_fp32.size(), 6u) << "every distance from fp32 is below its lower bound";
  for (const std::string& quantity : plain_fp32)
    EXPECT_TRUE(quantity.ends_with(", from our fp32")) << quantity;
  const auto too_far = failures(compare_bf16(trace, shifted(trace, -2.5), fp32, 1.5));
  EXPECT_EQ(too_far.size(), 10u) << ::testing::PrintToString(too_far);
  ReplayResult unrounded = agreeing(trace);
  unrounded.student_logits[0][0][0] += 0.001;  // 1.001 lies between two bf16 values
  EXPECT_EQ(failures(compare_bf16(trace, unrounded, fp32, 1.5)),
            std::vector<std::string>{"logits that are no bf16 value"});
}

TEST(PrintChecks, ShowsVerdictRangeAndPlace) {
  std::ostringstream out;
  EXPECT_TRUE(print_checks(out, {{"logits", 1e-6, 0, 1e-5, "here"}}));
  EXPECT_FALSE(print_checks(out, {{"signs", 0.5, 1, 3, "there"}}));
  EXPECT_NE(out.str().find("  ok    logits"), std::string::npos);
  EXPECT_NE(out.str().find("  WRONG signs"), std::string::npos);
  EXPECT_NE(out.str().find("allowed 1 to 3"), std::string::npos);
  EXPECT_NE(out.str().find("there"), std::string::npos);
}

}  // namespace
}  // namespace fbi::parity
