// model.tie_scales and model.shift: the trainer's form against LibTorch modules and autograd,
// judged as a recording is.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <tuple>

#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>

#include "fbi/config/load.h"
#include "nn/write_model_folder.h"
#include "parity/compare.h"
#include "parity/latent_replay.h"
#include "parity/trainer_replay.h"

namespace fbi::parity {
namespace {

constexpr std::int64_t kMicroSteps = 12;

config::ModelConfig small_model(bool tie_scales, bool shift) {
  config::ModelConfig model;
  model.vocab_size = 61;
  model.hidden_size = 32;
  model.intermediate_size = 40;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;  // q has twice the rows of k and v
  model.max_position_embeddings = 8;
  model.tie_scales = tie_scales;
  model.shift = shift;
  config::resolve(model);
  return model;
}

/// What goes into a recording; clipping is active and the last step changes some signs.
Trace make_inputs(const config::ModelConfig& model) {
  Trace trace;
  trace.name = "options";
  trace.next_token_weight = trace.distill_weight = 0.5;
  trace.student = model;
  trace.teacher = small_model(false, true);
  trace.teacher->binarize = config::Binarize::kNone;
  trace.batch = 4;
  trace.seq = 8;
  trace.micro_steps = kMicroSteps;
  trace.accumulate = 2;
  trace.scales_from_weights = false;  // a tied one is formed from several layers: a test of nn
  trace.optimizer = TraceOptimizer{3e-3, 3e-4, 0.9, 0.95, 1e-8, 0.1, 0.5, 2, kMicroSteps};
  trace.tokens =
      at::randint(0, model.vocab_size, {kMicroSteps, trace.batch, trace.seq + 1}, at::kLong);
  trace.student_init = nn::random_model(model, 1);
  trace.teacher_init = nn::random_model(*trace.teacher, 2);
  for (const auto& [name, tensor] : trace.student_init)
    if (name.ends_with("wscale"))
      trace.binarized_modules.push_back(name.substr(0, name.rfind('.')));
  return trace;
}

/// As LibTorch modules have them: a shared scale is a parameter of its first layer.
void leave_out_shared_scales(NamedTensors& tensors) {
  std::erase_if(tensors, [](const auto& entry) {
    return entry.first.ends_with("k_proj.wscale") || entry.first.ends_with("v_proj.wscale") ||
           entry.first.ends_with("up_proj.wscale");
  });
}

Trace record(Trace trace) {
  if (trace.student.tie_scales) leave_out_shared_scales(trace.student_init);
  const ReplayResult result = replay_latent(trace, config::Precision::kFp32);
  trace.student_logits = result.student_logits;
  trace.teacher_logits = result.teacher_logits;
  trace.first_gradients = result.first_gradients;
  trace.effective = result.effective;
  trace.first_losses = result.losses.front();
  trace.micro_losses = result.losses;
  trace.steps = result.steps;
  trace.final_parameters = result.final_parameters;
  return trace;
}

class Options : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(Options, TheTrainerDoesWhatAutogradDoes) {
  at::set_num_threads(1);
  const auto [tie_scales, shift] = GetParam();
  Trace trace = make_inputs(small_model(tie_scales, shift));
  const Trace recording = record(trace);
  trace.effective = recording.effective;
  std::int64_t flips = 0;
  for (const auto& step : recording.steps)
    for (const std::int64_t count : step.flips) flips += count;
  EXPECT_GT(flips, 0);
  for (const int ranks : {1, 2}) {
    std::ostringstream report;
    const auto replay = replay_trainer(trace, config::Precision::kFp32, {.ranks = ranks});
    EXPECT_TRUE(print_checks(report, compare(recording, replay))) << ranks << " ranks\n"
                                                                  << report.str();
    const auto& parameters = replay.final_parameters;
    EXPECT_EQ(parameters.contains("model.layers.0.mlp.up_proj.wbias"), shift);
    EXPECT_EQ(parameters.at("model.layers.0.mlp.up_proj.wscale")
                  .equal(parameters.at("model.layers.0.mlp.gate_proj.wscale")),
              tie_scales);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Options,
                         ::testing::Values(std::tuple(true, true), std::tuple(false, false),
                                           std::tuple(true, false)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "Tied" : "Untied") +
                                  (std::get<1>(info.param) ? "" : "NoShift");
                         });

}  // namespace
}  // namespace fbi::parity
