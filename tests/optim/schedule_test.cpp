#include "fbi/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fbi::optim {
namespace {

using config::ScheduleKind;

// Rates are a handful of double operations: equal to 1e-15 of the peak.
constexpr double kPeak = 3e-4, kEnd = 3e-5, kTolerance = 1e-15 * kPeak * 10;

TEST(Schedule, FollowsThePublishedFormula) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 1};
  EXPECT_EQ(schedule.at_micro_step(0), 0.0);
  EXPECT_NEAR(schedule.at_micro_step(1), kPeak / 10, kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(9), kPeak * 9 / 10, kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(10), kPeak, kTolerance);
  // A quarter, half and all of the cosine: cos is √½, 0 and -1.
  EXPECT_NEAR(schedule.at_micro_step(35), kEnd + (1 + std::sqrt(0.5)) / 2 * (kPeak - kEnd),
              kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(60), (kPeak + kEnd) / 2, kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(110), kEnd, kTolerance);
}

TEST(Schedule, StaysAtTheEndRateBeyondItsLength) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 1};
  EXPECT_EQ(schedule.at_micro_step(111), kEnd);
  EXPECT_EQ(schedule.at_step(1'000'000'000'000), kEnd);
}

TEST(Schedule, AStepHasTheRateOfItsLastMicroStep) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 4};
  EXPECT_EQ(schedule.at_step(0), schedule.at_micro_step(3));
  EXPECT_EQ(schedule.at_step(5), schedule.at_micro_step(23));
}

TEST(Schedule, TheFirstStepOfOneMicroStepHasRateZero) {
  EXPECT_EQ((Schedule{kPeak, kEnd, 10, 110, 1}.at_step(0)), 0.0);
  EXPECT_GT((Schedule{kPeak, kEnd, 10, 110, 2}.at_step(0)), 0.0);
}

TEST(Schedule, WithoutWarmUpStartsAtThePeak) {
  const Schedule schedule{kPeak, kEnd, 0, 100, 1};
  EXPECT_NEAR(schedule.at_step(0), kPeak, kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(50), (kPeak + kEnd) / 2, kTolerance);
}

TEST(Schedule, ThatIsAllWarmUpReachesThePeakAndThenEnds) {
  const Schedule schedule{kPeak, kEnd, 10, 10, 1};
  EXPECT_NEAR(schedule.at_micro_step(9), kPeak * 9 / 10, kTolerance);
  EXPECT_EQ(schedule.at_micro_step(10), kPeak);
  EXPECT_EQ(schedule.at_micro_step(11), kEnd);
  const Schedule nothing{kPeak, kEnd, 0, 0, 1};
  EXPECT_EQ(nothing.at_micro_step(0), kPeak);
  EXPECT_EQ(nothing.at_micro_step(1), kEnd);
}

TEST(Schedule, MayEndWithinAStep) {
  // Steps of 4 micro-steps end at 3, 7, 11; the cosine ends at 10.
  const Schedule schedule{kPeak, kEnd, 2, 10, 4};
  EXPECT_NEAR(schedule.at_step(1),
              kEnd + (1 + std::cos(5 * std::acos(-1.0) / 8)) / 2 * (kPeak - kEnd), kTolerance);
  EXPECT_EQ(schedule.at_step(2), kEnd);
}

TEST(Schedule, KindsShareTheWarmUpOfTheCosine) {
  const Schedule cosine{kPeak, kEnd, 10, 110, 4};
  for (const auto kind : {ScheduleKind::kLinear, ScheduleKind::kConstant, ScheduleKind::kWsd}) {
    const Schedule schedule{kPeak, kEnd, 10, 110, 4, kind, 20};
    for (std::int64_t m = 0; m < 10; ++m)
      EXPECT_EQ(schedule.at_micro_step(m), cosine.at_micro_step(m)) << m;
    EXPECT_NEAR(schedule.at_micro_step(10), kPeak, kTolerance);
    EXPECT_EQ(schedule.at_step(5), schedule.at_micro_step(23));
  }
}

TEST(Schedule, LinearFallsFromTheWarmUpToTheEnd) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 1, ScheduleKind::kLinear};
  EXPECT_NEAR(schedule.at_micro_step(35), kPeak - 0.25 * (kPeak - kEnd), kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(60), (kPeak + kEnd) / 2, kTolerance);
  EXPECT_EQ(schedule.at_micro_step(110), kEnd);
  EXPECT_EQ(schedule.at_micro_step(111), kEnd);
  const Schedule all_warm_up{kPeak, kEnd, 10, 10, 1, ScheduleKind::kLinear};
  EXPECT_EQ(all_warm_up.at_micro_step(10), kPeak);
  EXPECT_EQ(all_warm_up.at_micro_step(11), kEnd);
}

TEST(Schedule, ConstantNeverFalls) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 1, ScheduleKind::kConstant};
  for (const std::int64_t m : {10, 60, 110, 111, 1'000'000'000})
    EXPECT_EQ(schedule.at_micro_step(m), kPeak) << m;
}

TEST(Schedule, WsdFallsInItsDecayAlone) {
  const Schedule schedule{kPeak, kEnd, 10, 110, 1, ScheduleKind::kWsd, 20};
  for (const std::int64_t m : {10, 50, 89}) EXPECT_EQ(schedule.at_micro_step(m), kPeak) << m;
  EXPECT_NEAR(schedule.at_micro_step(90), kPeak, kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(95), kPeak - 0.25 * (kPeak - kEnd), kTolerance);
  EXPECT_NEAR(schedule.at_micro_step(100), (kPeak + kEnd) / 2, kTolerance);
  EXPECT_EQ(schedule.at_micro_step(110), kEnd);
  EXPECT_EQ(schedule.at_micro_step(111), kEnd);
  const Schedule all_decay{kPeak, kEnd, 10, 110, 1, ScheduleKind::kWsd, 100};
  const Schedule linear{kPeak, kEnd, 10, 110, 1, ScheduleKind::kLinear};
  for (std::int64_t m = 0; m <= 112; ++m)
    EXPECT_EQ(all_decay.at_micro_step(m), linear.at_micro_step(m)) << m;
}

TEST(Schedule, CountsTheMicroStepsOfTheConfiguration) {
  config::OptimizerConfig config;
  config.lr = kPeak;
  config.end_lr = kEnd;
  config.warmup_steps = 3;
  config.total_steps = 20;
  config.schedule = ScheduleKind::kWsd;
  config.decay_steps = 5;
  config.schedule_micro_steps = 8;
  const Schedule schedule = make_schedule(config);
  EXPECT_EQ(schedule.warmup_micro_steps, 24);
  EXPECT_EQ(schedule.total_micro_steps, 160);
  EXPECT_EQ(schedule.micro_steps, 8);
  EXPECT_EQ(schedule.kind, ScheduleKind::kWsd);
  EXPECT_EQ(schedule.decay_micro_steps, 40);
  EXPECT_NEAR(schedule.at_step(0), kPeak * 7 / 24, kTolerance);
}

}  // namespace
}  // namespace fbi::optim
