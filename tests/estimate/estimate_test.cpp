// The estimator against arithmetic done by hand.
#include "fbi/estimate/estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::estimate {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int64_t kGpuBytes = 80'000'000'000, kReserve = 3'000'000'000;

config::RunConfig preset(const std::string& name, int world_size,
                         std::vector<std::string> overrides = {}) {
  config::LoadOptions options;
  options.world_size = world_size;
  options.overrides = std::move(overrides);
  return config::load_run_config(std::filesystem::path(FBI_SOURCE_DIR) / "configs" / name, options);
}

/// Llama-2-7B in fp16, the teacher of all presets, on a GPU.
TeacherPlan llama_7b() {
  auto model = preset("7b.json", 32).model;
  model.binarize = config::Binarize::kNone;
  return plan_teacher(model, {}, at::kHalf, Processor::kGpu);
}

Estimate on_gpus(const config::RunConfig& config, int world_size) {
  return estimate(config, llama_7b(), world_size, Processor::kGpu);
}

std::int64_t peak_bytes(const Estimate& estimate) {
  return total_bytes(estimate.memory.peak().bytes);
}

std::int64_t constant(const Estimate& estimate, MemoryKind kind) {
  return estimate.memory.constant[static_cast<std::size_t>(kind)];
}

TEST(Estimate, ArithmeticOf7B) {
  const auto flops = on_gpus(preset("7b.json", 32), 32).flops;
  EXPECT_NEAR(flops.without_recompute() / 1e9, 55.0, 0.05);
  EXPECT_NEAR(flops.total() / 1e9, 68.5, 0.05);
  EXPECT_NEAR(flops.teacher / flops.total(), 0.2, 0.01);
  EXPECT_EQ(on_gpus(preset("7b.json", 32, {"train.recompute=false"}), 32).flops.recompute, 0);
  EXPECT_EQ(on_gpus(preset("7b.json", 32, {"objective.distill=0", "objective.next_token=1"}), 32)
                .flops.teacher,
            0);
}

TEST(Estimate, Fp8SignsTakeAThirdOfTheStudentsProductsInABytePerWeight) {
  auto config = preset("7b.json", 32);
  const auto model = config.model;
  const auto of = [&] {
    return estimate(config, plan_teacher(model, config.teacher, at::kHalf, Processor::kGpu), 32,
                    Processor::kGpu);
  };
  const auto dense = of();
  config.train.sign_products = "fp8";
  const auto fp8 = of();
  EXPECT_EQ(fp8.flops.student, dense.flops.student);
  EXPECT_EQ(dense.flops.student_fp8, 0);
  EXPECT_NEAR(fp8.flops.student_fp8 / 1e9, 12.95, 0.01);
  EXPECT_NE(flops_report(fp8).find("in fp8"), std::string::npos);
  EXPECT_EQ(fp8.memory.constant, dense.memory.constant);
  config.model.binarize = config::Binarize::kNone;
  EXPECT_EQ(of().flops.student_fp8, 0);
}

TEST(Estimate, Fp8TeacherHalvesItsDecoder) {
  auto config = preset("7b.json", 32);
  auto model = config.model;
  model.binarize = config::Binarize::kNone;
  const auto teacher = [&] {
    return plan_teacher(model, config.teacher, at::kHalf, Processor::kGpu);
  };
  const auto bf16 = estimate(config, teacher(), 32, Processor::kGpu);
  config.teacher.dtype = "fp8";
  const auto fp8 = estimate(config, teacher(), 32, Processor::kGpu);
  // 6.48 G weights of 32 layers; the scales are a thousandth.
  EXPECT_NEAR(static_cast<double>(constant(bf16, MemoryKind::kTeacher) -
                                  constant(fp8, MemoryKind::kTeacher)) /
                  1e9,
              6.47, 0.01);
  EXPECT_EQ(fp8.flops.teacher, bf16.flops.teacher);
  EXPECT_EQ(bf16.flops.teacher_fp8, 0);
  EXPECT_NEAR(fp8.flops.teacher_fp8 / 1e9, 12.95, 0.01);
  EXPECT_NE(flops_report(fp8).find("in fp8"), std::string::npos);
  EXPECT_NE(teacher_report(teacher(), "x").find("of decoder matrices 1"), std::string::npos);
}

/// Against sharded training that gathers bf16 weights for forward and for backward of each of 10
/// micro-steps.
TEST(Estimate, BitsSaveTwoOrdersOfMagnitudeOfTraffic) {
  const auto result = on_gpus(preset("7b.json", 32), 32);
  ASSERT_EQ(result.micro_steps, 10);
  const auto& t = result.traffic;
  EXPECT_GE(static_cast<double>(t.bf16_gathers_of_linears), 300.0 * static_cast<double>(t.bits));
  EXPECT_GE(static_cast<double>(t.bf16_gathers), 140.0 * static_cast<double>(t.bits + t.values));
  EXPECT_THAT(traffic_report(result), HasSubstr("320 times the bits"));
  EXPECT_THAT(traffic_report(result), HasSubstr("145 times bits, embedding and head"));
}

TEST(Estimate, TrafficOf7B) {
  const auto size = config::parameter_counts(preset("7b.json", 32).model);
  const std::int64_t norms = 65 * 4096, matrices = size.binarized + size.dense - norms;
  const auto t = on_gpus(preset("7b.json", 32), 32).traffic;  // 32 divides all rows
  EXPECT_EQ(t.gradients, matrices * 4 / 32 * 31);
  EXPECT_EQ(t.bits, size.binarized / 8 / 32 * 31);
  EXPECT_EQ(t.values, (size.dense - norms) * 4 / 32 * 31);
  EXPECT_EQ(t.scales, (norms + size.scales) * 4 * 2 * 31 / 32);
  EXPECT_EQ(t.teacher, 0);
  EXPECT_LT(t.control, 20'000);

  const auto bf16 =
      on_gpus(
          preset("7b.json", 32, {"parallel.gradient_dtype=bf16", "parallel.shard_gradients=true"}),
          32)
          .traffic;
  EXPECT_EQ(bf16.gradients, t.gradients / 2 * 10);
  EXPECT_EQ(bf16.bits, t.bits);
  EXPECT_EQ(on_gpus(preset("7b.json", 1), 1).traffic.total(), 0);
}

TEST(Estimate, ShardsLatentWeightsAndMomentsButNotGradients) {
  const auto one = on_gpus(preset("7b.json", 1), 1), eight = on_gpus(preset("7b.json", 8), 8);
  const auto size = config::parameter_counts(preset("7b.json", 8).model);
  EXPECT_EQ(constant(one, MemoryKind::kLatent), size.binarized * 4);
  EXPECT_EQ(constant(one, MemoryKind::kMoments), size.total() * 8);
  EXPECT_EQ(constant(eight, MemoryKind::kLatent), size.binarized * 4 / 8);
  EXPECT_NEAR(static_cast<double>(constant(eight, MemoryKind::kMoments)),
              static_cast<double>(size.total()), 1e8);
  EXPECT_EQ(constant(eight, MemoryKind::kBits), size.binarized / 8);
  EXPECT_GT(constant(eight, MemoryKind::kGradients), size.total() * 4);
  const auto unpacked = on_gpus(preset("7b.json", 8, {"train.working_copy=step"}), 8);
  EXPECT_EQ(constant(unpacked, MemoryKind::kWorkspace), 2 * size.binarized);
  EXPECT_EQ(constant(eight, MemoryKind::kWorkspace), 0);
  const auto sharded = on_gpus(preset("7b.json", 8, {"parallel.shard_gradients=true"}), 8);
  EXPECT_LT(constant(sharded, MemoryKind::kGradients), size.total() * 4 / 5);
}

/// The launch shapes of the published runs, on GPUs of 80 GB less 3 GB.
TEST(Estimate, PresetsFit) {
  const auto fits = [](const char* name, int world_size, std::vector<std::string> changes) {
    return peak_bytes(on_gpus(preset(name, world_size, std::move(changes)), world_size)) <=
           kGpuBytes - kReserve;
  };
  EXPECT_TRUE(fits("130m.json", 4, {}));
  EXPECT_TRUE(fits("1.3b.json", 16, {}));
  EXPECT_TRUE(fits("7b.json", 32, {}));
  EXPECT_TRUE(fits("7b.json", 8, {}));
  EXPECT_LE(peak_bytes(on_gpus(preset("7b.json", 1), 1)), 141'000'000'000 - kReserve);  // one H200
  EXPECT_TRUE(fits("13b.json", 64, {}));
  EXPECT_FALSE(fits("13b.json", 64, {"parallel.shard_teacher=false"}));
}

TEST(Estimate, NamesSettingsThatFit) {
  const auto ways = [](const config::RunConfig& config, int world_size, std::int64_t budget) {
    std::vector<std::string> out;
    for (const auto& way :
         find_fitting_settings(config, llama_7b(), world_size, Processor::kGpu, budget)) {
      EXPECT_LE(peak_bytes(way.estimate), budget);
      out.push_back(::testing::PrintToString(way.changes));
    }
    return out;
  };
  const auto config = preset("7b.json", 8, {"train.recompute=false"});
  EXPECT_THAT(ways(config, 8, kGpuBytes - kReserve),
              ElementsAre("{ \"train.micro_batch=2\" }", "{ \"train.recompute=true\" }",
                          "{ \"parallel.shard_gradients=true\" }"));
  EXPECT_THAT(ways(preset("7b.json", 8, {"train.working_copy=step"}), 8, kGpuBytes - kReserve),
              Contains("{ \"train.working_copy=layer\" }"));
  const auto small = preset("130m.json", 4);
  EXPECT_THAT(ways(small, 4, 21'300'000'000), Contains("{ \"teacher.micro_batch=1\" }"));
  EXPECT_THAT(ways(config, 8, 1'000'000'000'000), ElementsAre("{}"));
  EXPECT_THAT(ways(config, 8, 1'000'000'000), ElementsAre());
}

/// What training refuses is no advice.
TEST(Estimate, DoesNotSpreadABinarizedTeacher) {
  const auto config = preset("1.3b.json", 8);
  const auto is_advised = [&](const TeacherPlan& teacher) {
    // Too little for anything but all settings together.
    const auto smallest =
        preset("1.3b.json", 8,
               {"train.recompute=true", "train.micro_batch=1", "parallel.gradient_dtype=bf16",
                "parallel.shard_gradients=true", "parallel.shard_teacher=true"});
    const auto budget = peak_bytes(estimate(smallest, teacher, 8, Processor::kGpu));
    const auto ways = find_fitting_settings(config, teacher, 8, Processor::kGpu, budget);
    EXPECT_FALSE(ways.empty());
    return std::ranges::any_of(ways, [](const FittingSettings& way) {
      return std::ranges::count(way.changes, "parallel.shard_teacher=true") > 0;
    });
  };
  TeacherPlan teacher = llama_7b();
  EXPECT_TRUE(is_advised(teacher));
  teacher.model.binarize = config::Binarize::kColumn;
  EXPECT_FALSE(is_advised(teacher));
}

TEST(Estimate, SmallerSettingsNeedLess) {
  const auto peak = [](std::vector<std::string> changes) {
    return peak_bytes(on_gpus(preset("7b.json", 8, std::move(changes)), 8));
  };
  const std::int64_t plain = peak({});
  EXPECT_GT(peak({"train.recompute=false"}), plain);
  EXPECT_LT(peak({"train.micro_batch=3"}), plain);
  EXPECT_LT(peak({"parallel.gradient_dtype=bf16"}), plain);
  EXPECT_LT(peak({"parallel.shard_gradients=true"}), plain);
  EXPECT_LT(peak({"parallel.shard_teacher=true"}), plain);
}

TEST(Estimate, RunAndDisk) {
  const auto result = on_gpus(preset("7b.json", 32), 32);
  const auto size = config::parameter_counts(preset("7b.json", 32).model);
  EXPECT_EQ(result.tokens_per_step, 1920 * 2048);
  EXPECT_NEAR(result.tokens(), 1.2585e12, 1e9);
  EXPECT_EQ(result.checkpoint_bytes, 12 * size.total());
  EXPECT_EQ(result.kept_checkpoints, 3);
  EXPECT_EQ(result.disk_bytes, 4 * 12 * size.total());
  const auto history =
      on_gpus(preset("7b.json", 32, {"train.steps=100000", "checkpoint.keep_every=15000"}), 32);
  EXPECT_EQ(history.kept_checkpoints, 6 + 3);
  EXPECT_EQ(history.disk_bytes, 10 * 12 * size.total());
  EXPECT_THAT(disk_report(history), HasSubstr(" for 9 and one being written"));
}

TEST(Estimate, KeepsNoMoreCheckpointsThanTheRunMakes) {
  const auto kept = [](std::vector<std::string> changes) {
    changes.insert(changes.begin(), {"train.steps=100", "checkpoint.every_steps=0"});
    return on_gpus(preset("130m.json", 4, std::move(changes)), 4).kept_checkpoints;
  };
  const std::string all = "checkpoint.keep=9223372036854775807";
  EXPECT_EQ(kept({}), 1);
  EXPECT_EQ(kept({"checkpoint.at_end=false"}), 0);
  EXPECT_EQ(kept({all, "checkpoint.every_steps=30"}), 3 + 1);
  EXPECT_EQ(kept({all, "checkpoint.every_steps=25"}), 4);
  EXPECT_EQ(kept({all, "checkpoint.every_steps=25", "checkpoint.at_end=false"}), 4);
  EXPECT_EQ(kept({all, "checkpoint.every_steps=10", "checkpoint.keep_every=15"}), 13);
  EXPECT_EQ(kept({"checkpoint.every_steps=10", "checkpoint.keep_every=15"}), 6 + 3);
  EXPECT_EQ(kept({all, "checkpoint.every_seconds=1", "checkpoint.keep_every=15"}), 100);
  EXPECT_EQ(kept({all, "checkpoint.keep_every=1073741824"}), 1);
}

TEST(Estimate, OfMoreBytesThanCanBeCountedSaysTheMost) {
  const auto every_step =
      on_gpus(preset("13b.json", 64, {"train.steps=1000000000", "checkpoint.keep_every=1"}), 64);
  EXPECT_EQ(every_step.kept_checkpoints, 1'000'000'000);
  EXPECT_EQ(every_step.disk_bytes, std::numeric_limits<std::int64_t>::max());
}

TEST(Estimate, RefusesWhatTrainingWouldRefuse) {
  test::expect_error<UsageError>(
      [] { estimate(preset("7b.json", 8), std::nullopt, 8, Processor::kGpu); }, "teacher");
  test::expect_error<UsageError>([] { on_gpus(preset("7b.json", 8), 7); }, "1920", "42");
}

}  // namespace
}  // namespace fbi::estimate
