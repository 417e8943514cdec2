// Training, checkpoints and evaluation on a GPU against the same on the CPU.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "distributed/free_port.h"
#include "fbi/core/error.h"
#include "fbi/distill/fp8_teacher.h"
#include "fbi/distributed/process_group.h"
#include "fbi/nn/model_folder.h"
#include "fbi/ops/device.h"
#include "fbi/ops/fp8.h"
#include "support/expect_error.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

// fp32 on both sides, sums in another order. A difference of 1e-6 in a gradient is one in the loss
// of the next step; where Adam divides a gradient that is nearly 0 by itself it is a larger one, of
// few weights.
constexpr double kLossTolerance = 1e-4, kNormTolerance = 1e-3;
// Signs of 3,584 weights: a flip is elsewhere only where a weight passes 0 within that difference.
constexpr std::int64_t kFlipTolerance = 4;
// bf16 has 8 bits: 0.4 % in each product, which average out over the 32 tokens of a step.
constexpr double kBf16Tolerance = 0.02;

constexpr std::int64_t kGpuSteps = 12;  // an emulated GPU takes a quarter of a second for each

struct Outcome {
  RunOutcome outcome{};
  std::vector<StepMetrics> steps;
};

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
    gpu_ = ops::choose_device("cuda", 0);
  }

  Outcome train(at::Device device, const config::RunConfig& config, const std::string& name,
                const std::string& resume = "none") {
    Outcome run;
    const auto ranks = distributed::make_single_rank(device);
    run.outcome = runs_.run_rank(*ranks, config, name, resume,
                                 [&](const StepMetrics& step) { run.steps.push_back(step); });
    return run;
  }

  at::Device gpu_ = at::kCPU;
  TinyRuns runs_;
};

void expect_near(const Outcome& gpu, const Outcome& cpu) {
  ASSERT_EQ(gpu.steps.size(), cpu.steps.size());
  for (std::size_t i = 0; i < cpu.steps.size(); ++i) {
    const StepMetrics &found = gpu.steps[i], &expected = cpu.steps[i];
    SCOPED_TRACE("step " + std::to_string(expected.step));
    EXPECT_EQ(found.sample_first, expected.sample_first);
    EXPECT_NEAR(found.loss, expected.loss, kLossTolerance * expected.loss);
    EXPECT_NEAR(found.loss_next_token, expected.loss_next_token,
                kLossTolerance * expected.loss_next_token);
    EXPECT_NEAR(found.loss_distill, expected.loss_distill, kLossTolerance * expected.loss_distill);
    EXPECT_NEAR(found.grad_norm, expected.grad_norm, kNormTolerance * expected.grad_norm);
    EXPECT_NEAR(static_cast<double>(found.flips), static_cast<double>(expected.flips),
                kFlipTolerance);
  }
}

class GpuKinds : public Gpu, public testing::WithParamInterface<std::string> {
 protected:
  config::RunConfig config() { return runs_.config(GetParam()); }
};

TEST_P(GpuKinds, FirstStepsAgreeWithTheCpu) {
  for (const bool recompute : {false, true}) {
    config::RunConfig c = config();
    c.train.steps = 5;
    c.train.recompute = recompute;
    if (recompute) c.train.working_copy = "step";
    const std::string form = recompute ? "-recompute" : "";
    expect_near(train(gpu_, c, "gpu" + form), train(at::kCPU, c, "cpu" + form));
  }
}

TEST_P(GpuKinds, TwoRunsGiveTheSameBits) {
  config::RunConfig c = config();
  c.train.steps = kGpuSteps;
  train(gpu_, c, "one");
  train(gpu_, c, "two");
  EXPECT_EQ(metrics_lines(runs_.path("two")), metrics_lines(runs_.path("one")));
  EXPECT_EQ(end_of(runs_.path("two"), kGpuSteps), end_of(runs_.path("one"), kGpuSteps));
}

/// NCCL refuses two ranks on one GPU: this is what a machine with a single one can test.
TEST_P(GpuKinds, OneRankOverNcclGivesTheBitsOfOneRank) {
  config::RunConfig c = config();
  c.train.steps = kGpuSteps;
  train(gpu_, c, "alone");
  const auto ranks =
      distributed::make_nccl_group({0, 1, 0, "127.0.0.1", test::free_port(), "test"}, gpu_);
  runs_.run_rank(*ranks, c, "nccl", "none");
  EXPECT_EQ(metrics_lines(runs_.path("nccl")), metrics_lines(runs_.path("alone")));
  EXPECT_EQ(end_of(runs_.path("nccl"), kGpuSteps), end_of(runs_.path("alone"), kGpuSteps));
}

TEST_P(GpuKinds, ResumingGivesTheSameBits) {
  config::RunConfig c = config();
  c.train.steps = kGpuSteps;
  c.checkpoint.every_steps = 7;
  train(gpu_, c, "whole");
  copy_run_at(runs_.path("whole"), runs_.path("resumed"), 7);
  const Outcome resumed = train(gpu_, c, "resumed", "auto");
  EXPECT_EQ(resumed.outcome, RunOutcome::kFinished);
  EXPECT_EQ(resumed.steps.size(), kGpuSteps - 7);
  EXPECT_EQ(metrics_lines(runs_.path("resumed")), metrics_lines(runs_.path("whole")));
  EXPECT_EQ(end_of(runs_.path("resumed"), kGpuSteps), end_of(runs_.path("whole"), kGpuSteps));
}

TEST_P(GpuKinds, ContinuesFromACheckpointOfTheCpu) {
  config::RunConfig c = config();
  c.train.steps = 30;
  c.checkpoint.every_steps = 25;
  config::RunConfig with_tables = c;
  with_tables.train.sign_products = "tables";
  Outcome cpu = train(at::kCPU, with_tables, "cpu");
  cpu.steps.erase(cpu.steps.begin(), cpu.steps.begin() + 25);
  copy_run_at(runs_.path("cpu"), runs_.path("gpu"), 25);
  copy_run_at(runs_.path("cpu"), runs_.path("ends"), 25);
  expect_near(train(gpu_, c, "gpu", "auto"), cpu);

  // With products that a GPU lacks; the first start on it may end before it has saved anything.
  const auto ends = [](const StepMetrics&) { throw PeerError("lost"); };
  const auto ranks = distributed::make_single_rank(gpu_);
  EXPECT_THROW(runs_.run_rank(*ranks, c, "ends", "auto", ends), PeerError);
  EXPECT_EQ(saved_run_config(runs_.path("ends"))->train.sign_products, "dense");
  expect_near(train(gpu_, c, "ends", "auto"), cpu);
}

TEST_P(GpuKinds, StaysNearInBf16) {
  config::RunConfig c = config();
  c.train.steps = 10;
  const Outcome fp32 = train(gpu_, c, "fp32");
  c.train.precision = config::Precision::kBf16;
  const Outcome bf16 = train(gpu_, c, "bf16");
  ASSERT_EQ(bf16.steps.size(), fp32.steps.size());
  for (std::size_t i = 0; i < fp32.steps.size(); ++i) {
    SCOPED_TRACE("step " + std::to_string(i + 1));
    EXPECT_FALSE(bf16.steps[i].skipped);
    EXPECT_NEAR(bf16.steps[i].loss, fp32.steps[i].loss, kBf16Tolerance * fp32.steps[i].loss);
  }
}

TEST_P(GpuKinds, EvaluationAgreesWithTheCpu) {
  config::RunConfig c = config();
  c.train.steps = 10;
  train(at::kCPU, c, "run");
  const auto folder = nn::open_model_folder(runs_.path("run"));
  constexpr std::int64_t kBatch = 3, kTokens = kSeqLen + 1;
  std::vector<std::int32_t> tokens(kBatch * kTokens);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(3 + i * 7 % (kVocab - 3));
  const auto perplexity = [&](const std::string& dtype, at::Device device) {
    const auto model = nn::load_for_evaluation(folder, nn::evaluation_dtype(dtype, device), device);
    std::vector<float> nll(kBatch * kSeqLen);
    model->token_nll(tokens, kBatch, kTokens, nll);
    double sum = 0;
    for (const float value : nll) sum += value;
    return std::exp(sum / static_cast<double>(nll.size()));
  };
  const double expected = perplexity("fp32", at::kCPU);
  EXPECT_NEAR(perplexity("fp32", gpu_), expected, kLossTolerance * expected);
  EXPECT_NEAR(perplexity("bf16", gpu_), expected, kBf16Tolerance * expected);
  EXPECT_NEAR(perplexity("fp16", gpu_), expected, kBf16Tolerance * expected);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GpuKinds, testing::Values("kd", "mixed", "dense", "tied"),
                         [](const auto& info) { return info.param; });

/// The same bytes as on the CPU. Products: results in bf16, sums of 14 bits in the tensor cores.
TEST_F(Gpu, Fp8ProductsAgreeWithTheCpu) {
  try {
    ops::check_fp8(distill::kFp8Teacher, gpu_);
  } catch (const UsageError& error) {  // an older GPU
    EXPECT_NE(std::string(error.what()).find("compute capability 8.9"), std::string::npos);
    GTEST_SKIP() << error.what();
  }
  const at::Tensor x = at::randn({64, 96}), w = at::randn({48, 96});
  const auto cpu_x = ops::quantize_rows(x), cpu_w = ops::quantize_rows(w);
  const auto gpu_x = ops::quantize_rows(x.to(gpu_)), gpu_w = ops::quantize_rows(w.to(gpu_));
  EXPECT_TRUE(gpu_x.values.cpu().view(at::kByte).equal(cpu_x.values.view(at::kByte)));
  EXPECT_TRUE(gpu_x.scales.cpu().equal(cpu_x.scales));
  const at::Tensor expected = ops::fp8_product(cpu_x, cpu_w, at::kFloat, ops::Fp8Sums::kFast);
  for (const auto sums : {ops::Fp8Sums::kFast, ops::Fp8Sums::kFp32}) {
    const at::Tensor found =
        ops::fp8_product(gpu_x, gpu_w, at::kBFloat16, sums).cpu().to(at::kFloat);
    EXPECT_LT(((found - expected).norm() / expected.norm()).item<double>(), 0.005);
  }
}

/// Signs in fp8 against the same on the CPU in bf16, whose sums have another order: a difference in
/// the last of 8 bits may round an input to its neighbour in fp8.
TEST_F(Gpu, TrainingWithSignsInFp8AgreesWithTheCpu) {
  config::RunConfig c = runs_.config("mixed");
  c.model.intermediate_size = 32;
  c.model.num_key_value_heads = c.model.num_attention_heads;  // keys of width 16
  c.train.precision = config::Precision::kBf16;
  c.train.sign_products = "fp8";
  c.train.steps = 10;
  Outcome gpu;
  try {
    gpu = train(gpu_, c, "gpu");
  } catch (const UsageError& error) {  // an older GPU
    EXPECT_NE(std::string(error.what()).find("compute capability 8.9"), std::string::npos);
    GTEST_SKIP() << error.what();
  }
  const Outcome cpu = train(at::kCPU, c, "cpu");
  ASSERT_EQ(gpu.steps.size(), cpu.steps.size());
  for (std::size_t i = 0; i < cpu.steps.size(); ++i) {
    SCOPED_TRACE("step " + std::to_string(i + 1));
    EXPECT_FALSE(gpu.steps[i].skipped);
    EXPECT_NEAR(gpu.steps[i].loss, cpu.steps[i].loss, kBf16Tolerance * cpu.steps[i].loss);
  }
  c.model.intermediate_size = 20;
  test::expect_error<UsageError>([&] { train(gpu_, c, "odd"); }, "train.sign_products=fp8",
                                 "multiples of 16", "use dense");
}

TEST_F(Gpu, MetricsTellTheMemoryOfTheDevice) {
  config::RunConfig c = runs_.config();
  c.train.steps = c.optimizer.warmup_steps = 1;
  for (const at::Device device : {at::Device(at::kCPU), gpu_}) {
    train(device, c, device.str());
    std::ifstream file(runs_.path(device.str()) / "metrics.jsonl");
    const auto line = nlohmann::json::parse(file);
    ASSERT_EQ(line.contains("peak_device_memory_bytes"), device.is_cuda());
    if (device.is_cuda()) EXPECT_GT(line["peak_device_memory_bytes"], 0);
  }
}

}  // namespace
}  // namespace fbi::train
