#include "fbi/kernels/distill_loss.h"

#include <algorithm>
#include <limits>

#include "fbi/core/error.h"
#include "kernels/support.h"
#include "support/expect_error.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(DistillLoss);
FBI_EVERY_LEVEL_BUT_REF(LargeDistillLoss);

constexpr float kUntouched = -77;

struct Weights {
  double next_token, distill, temperature;
};
const std::vector<Weights> kWeights = {{1, 0, 1},     {0, 1, 1}, {0.5, 0.5, 1}, {0, 1, 2},
                                       {0.3, 0.7, 2}, {0, 0, 1}, {1, 0, 2}};

struct LossProblem {
  std::int64_t tokens, vocab_size;
  std::vector<float> logits, teacher;
  std::vector<std::int32_t> targets;

  LossProblem(std::int64_t tokens, std::int64_t vocab_size, double stddev = 3)
      : tokens(tokens),
        vocab_size(vocab_size),
        logits(normals(tokens * vocab_size, 1, stddev)),
        teacher(normals(tokens * vocab_size, 2, stddev)) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      targets.push_back(static_cast<std::int32_t>((t * 7919 + vocab_size - 1) % vocab_size));
    }
  }
};

struct Losses {
  std::vector<float> gradient, next, distill;
  bool operator==(const Losses&) const = default;
};

Losses run(const LossProblem& problem, const Weights& weights, ParallelFor& parallel,
           double grad_scale = 1) {
  Guarded<float> logits(problem.logits), next(problem.tokens, kUntouched),
      distill(problem.tokens, kUntouched);
  distill_loss({.logits = logits.data(),
                .teacher_logits = weights.distill != 0 ? problem.teacher.data() : nullptr,
                .targets = problem.targets.data(),
                .tokens = problem.tokens,
                .vocab_size = problem.vocab_size,
                .next_token = weights.next_token,
                .distill = weights.distill,
                .temperature = weights.temperature,
                .grad_scale = grad_scale,
                .loss_next = next.data(),
                .loss_distill = distill.data()},
               parallel);
  return {logits.values(), next.values(), distill.values()};
}

using Row = std::vector<double>;

Row log_softmax(Row z, double temperature) {
  const double max = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double x : z) sum += std::exp((x - max) / temperature);
  for (double& x : z) x = (x - max) / temperature - std::log(sum);
  return z;
}

double defined_next(const Row& z, std::int32_t target) {
  return -log_softmax(z, 1)[target];
}

double defined_distill(const Row& z, const Row& teacher, double temperature) {
  const Row log_q = log_softmax(teacher, temperature), log_p = log_softmax(z, temperature);
  double loss = 0;
  for (std::size_t v = 0; v < z.size(); ++v) loss -= std::exp(log_q[v]) * log_p[v];
  return temperature * temperature * loss;
}

Row row_of(const std::vector<float>& matrix, std::int64_t token, std::int64_t vocab_size) {
  return {matrix.begin() + token * vocab_size, matrix.begin() + (token + 1) * vocab_size};
}

/// d(weighted losses)/dz in closed form.
Row defined_gradient(const LossProblem& problem, const Weights& weights, std::int64_t token) {
  const double tau = weights.temperature;
  const Row z = row_of(problem.logits, token, problem.vocab_size);
  const Row log_q = log_softmax(row_of(problem.teacher, token, problem.vocab_size), tau);
  const Row log_p = log_softmax(z, 1), log_p_tau = log_softmax(z, tau);
  Row gradient(z.size());
  for (std::size_t v = 0; v < z.size(); ++v) {
    gradient[v] = weights.next_token * std::exp(log_p[v]) +
                  weights.distill * tau * (std::exp(log_p_tau[v]) - std::exp(log_q[v]));
  }
  gradient[problem.targets[token]] -= weights.next_token;
  return gradient;
}

void expect_defined(const LossProblem& problem, const Weights& weights, const Losses& found) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const Row z = row_of(problem.logits, t, problem.vocab_size);
    const Row teacher = row_of(problem.teacher, t, problem.vocab_size);
    const double next = defined_next(z, problem.targets[t]);  // also without a weight
    // One rounding of the result (6e-8) and the sum's error, 32 fp32 additions of exponentials
    // within 1 ulp.
    EXPECT_NEAR(found.next[t], next, 5e-7 * std::max(1.0, next));
    if (weights.distill != 0) {
      const double expected = defined_distill(z, teacher, weights.temperature);
      EXPECT_NEAR(found.distill[t], expected, 1e-6 * std::max(1.0, expected)) << "three such sums";
    } else {
      EXPECT_EQ(found.distill[t], kUntouched);
    }
    const Row gradient = defined_gradient(problem, weights, t);
    for (std::int64_t v = 0; v < problem.vocab_size; ++v) {
      // A sum of probabilities, each right to some 5e-7 of itself for the reasons above.
      ASSERT_NEAR(found.gradient[t * problem.vocab_size + v], gradient[v], 1e-6)
          << "token " << t << ", class " << v;
    }
  }
}

TEST_P(DistillLoss, AgreesWithTheDefinitionAtEverySizeAndWeight) {
  for (const Weights& weights : kWeights) {
    for (std::int64_t vocab_size : kOddSizes) {
      SCOPED_TRACE(testing::Message()
                   << vocab_size << " classes, next " << weights.next_token << ", distill "
                   << weights.distill << ", temperature " << weights.temperature);
      const LossProblem problem(4, vocab_size);
      SerialFor serial;
      const Losses found = run(problem, weights, serial);
      expect_defined(problem, weights, found);
      for (int parts : {2, 3}) {
        CutFor parallel(parts);
        EXPECT_EQ(run(problem, weights, parallel), found) << parts << " parts";
      }
      if (HasFailure()) return;
    }
  }
}

TEST_P(DistillLoss, GradientAgreesWithFiniteDifferences) {
  for (const Weights& weights : kWeights) {
    const LossProblem problem(2, 37, 1.5);
    SerialFor serial;
    const double grad_scale = 0.125;
    const Losses found = run(problem, weights, serial, grad_scale);
    for (std::int64_t t = 0; t < problem.tokens; ++t) {
      const Row teacher = row_of(problem.teacher, t, problem.vocab_size);
      const auto loss = [&](const Row& z) {
        return weights.next_token * defined_next(z, problem.targets[t]) +
               weights.distill * defined_distill(z, teacher, weights.temperature);
      };
      for (std::int64_t v = 0; v < problem.vocab_size; ++v) {
        constexpr double kStep = 1e-4;
        Row above = row_of(problem.logits, t, problem.vocab_size), below = above;
        above[v] += kStep;
        below[v] -= kStep;
        // Truncation of the difference is of order step² = 1e-8, its cancellation 1e-16 / step =
        // 1e-12.
        EXPECT_NEAR(found.gradient[t * problem.vocab_size + v],
                    grad_scale * (loss(above) - loss(below)) / (2 * kStep), 2e-7)
            << "next " << weights.next_token << ", distill " << weights.distill << ", temperature "
            << weights.temperature << ", class " << v;
      }
    }
  }
}

TEST_P(LargeDistillLoss, AgreesWithTheReference) {
  for (std::int64_t vocab_size : {32000, 32003}) {
    for (const Weights& weights : {Weights{0, 1, 1}, Weights{0.5, 0.5, 2}}) {
      const LossProblem problem(3, vocab_size);
      ThreadPool pool(3);
      const Losses found = run(problem, weights, pool);
      const Losses expected = reference([&] { return run(problem, weights, pool); });
      for (std::int64_t t = 0; t < problem.tokens; ++t) {
        // See the definition's test; the loss is about log(vocabulary) = 10.
        if (weights.next_token != 0) EXPECT_NEAR(found.next[t], expected.next[t], 5e-6);
        EXPECT_NEAR(found.distill[t], expected.distill[t], 2e-5);
      }
      for (std::size_t i = 0; i < found.gradient.size(); ++i) {
        // Relative to a probability; absolute where p - q - onehot cancels (p and q are some 1e-2
        // at most here).
        ASSERT_NEAR(found.gradient[i], expected.gradient[i],
                    1e-8 + 1e-6 * std::abs(expected.gradient[i]));
      }
    }
  }
}

TEST(DistillLossLevels, VectorLevelsAreBitEqual) {
  const std::vector<Level> levels = vector_levels();
  if (levels.size() < 2) GTEST_SKIP() << "only one level can run here";
  for (const Weights& weights : kWeights) {
    const LossProblem problem(3, 1027);
    SerialFor serial;
    force_level(levels[0]);
    const Losses first = run(problem, weights, serial);
    for (const Level level : levels) {
      force_level(level);
      EXPECT_EQ(run(problem, weights, serial), first) << level_name(level);
    }
    force_level(std::nullopt);
  }
}

TEST_P(DistillLoss, IsUnchangedByAShiftOfAllLogits) {
  LossProblem problem(2, 50);
  // So that a shift by 2^k rounds nothing.
  for (float& z : problem.logits) z = std::round(z * 4) / 4;
  SerialFor serial;
  const Weights weights = {0.5, 0.5, 1};
  const Losses expected = run(problem, weights, serial);
  for (float shift : {-65536.0f, 1024.0f, 65536.0f}) {
    LossProblem shifted = problem;
    for (float& z : shifted.logits) z += shift;
    EXPECT_EQ(run(shifted, weights, serial), expected) << shift;
  }
}

TEST_P(DistillLoss, ExtremeLogitsStayFinite) {
  // One class far above all others, in the student, the teacher or both; the widest finite range.
  for (float top : {88.0f, 104.0f, 1e4f, 1e30f}) {
    for (double temperature : {1.0, 2.0}) {
      LossProblem problem(1, 35);
      std::fill(problem.logits.begin(), problem.logits.end(), -top);
      std::fill(problem.teacher.begin(), problem.teacher.end(), -top);
      problem.logits[3] = problem.teacher[3] = top;
      problem.targets[0] = 3;
      SerialFor serial;
      const Losses found = run(problem, {0.5, 0.5, temperature}, serial);
      // exp(-88) at most remains of the other classes.
      EXPECT_NEAR(found.next[0], 0, 1e-30);
      EXPECT_NEAR(found.distill[0], 0, 1e-30);
      for (float g : found.gradient) EXPECT_NEAR(g, 0, 1e-30);

      problem.targets[0] = 4;
      const Losses wrong = run(problem, {1, 0, 1}, serial);
      EXPECT_FLOAT_EQ(wrong.next[0], 2 * top);
      EXPECT_EQ(wrong.gradient[3], 1);
      EXPECT_EQ(wrong.gradient[4], -1);
    }
  }
}

TEST_P(DistillLoss, MaskedTeacherClassesHaveProbabilityZero) {
  LossProblem problem(1, 35);
  for (std::int64_t v = 20; v < 35; ++v) problem.teacher[v] = -INFINITY;
  SerialFor serial;
  const Losses found = run(problem, {0, 1, 1}, serial);
  EXPECT_NEAR(found.distill[0],
              defined_distill(row_of(problem.logits, 0, 35),
                              Row(problem.teacher.begin(), problem.teacher.end()), 1),
              1e-6);
  EXPECT_THAT(found.gradient,
              ::testing::Each(::testing::Truly([](float g) { return std::isfinite(g); })));
}

TEST_P(DistillLoss, NonFiniteLogitsReachTheLoss) {
  for (std::int64_t vocab_size : {17, 35, 600}) {
    for (std::int64_t place : {std::int64_t{0}, vocab_size / 2, vocab_size - 1}) {
      for (float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::bit_cast<float>(0x7FFFFFFFu), INFINITY}) {
        SerialFor serial;
        LossProblem student(2, vocab_size), teacher = student;
        student.logits[vocab_size + place] = bad;
        teacher.teacher[vocab_size + place] = bad;
        SCOPED_TRACE(testing::Message() << bad << " at " << place << " of " << vocab_size);
        EXPECT_FALSE(std::isfinite(run(student, {1, 0, 1}, serial).next[1]));
        for (double temperature : {1.0, 2.0}) {
          const Losses found = run(student, {0.5, 0.5, temperature}, serial);
          EXPECT_FALSE(std::isfinite(found.next[1]));
          EXPECT_FALSE(std::isfinite(found.distill[1]));
          EXPECT_FALSE(std::isfinite(run(teacher, {0, 1, temperature}, serial).distill[1]));
          EXPECT_TRUE(std::isfinite(found.distill[0])) << "the other token is unharmed";
        }
      }
      // A student that gives probability zero to a class that the teacher may choose.
      LossProblem student(1, vocab_size);
      student.logits[place] = -INFINITY;
      SerialFor serial;
      EXPECT_FALSE(std::isfinite(run(student, {0, 1, 1}, serial).distill[0]));
      student.targets[0] = static_cast<std::int32_t>(place);
      EXPECT_FALSE(std::isfinite(run(student, {1, 0, 1}, serial).next[0]));
    }
  }
}

TEST_P(DistillLoss, BothWeightsZeroGiveZeroGradient) {
  SerialFor serial;
  const Losses found = run(LossProblem(2, 19), {0, 0, 1}, serial);
  EXPECT_THAT(found.gradient, ::testing::Each(0.0f));
}

TEST_P(DistillLoss, RefusesBadArguments) {
  SerialFor serial;
  LossProblem problem(3, 10);
  problem.targets = {0, 9, 10};
  test::expect_error<DataError>(
      [&] {
        run(problem, {1, 0, 1}, serial);
      },
      "target 10 of token 2", "expected 0 to 9");
  std::vector<float> copy = problem.logits, soft(3);
  EXPECT_NO_THROW(distill_loss({.logits = copy.data(),
                                .teacher_logits = problem.teacher.data(),
                                .targets = problem.targets.data(),
                                .tokens = 3,
                                .vocab_size = 10,
                                .loss_distill = soft.data()},
                               serial))
      << "without a place for the loss, targets are not read";
  problem.targets[2] = -1;
  test::expect_error<DataError>([&] { run(problem, {1, 0, 1}, serial); }, "target -1 of token 2");
  for (double temperature : {0.0, -1.0, double{INFINITY}, double{NAN}}) {
    test::expect_error<UsageError>(
        [&] {
          run(problem, {0, 1, temperature}, serial);
        },
        "distillation temperature: expected a positive number");
  }
  DistillLossArgs args = {.logits = problem.logits.data(), .tokens = 3, .vocab_size = 10};
  test::expect_error<UsageError>([&] { distill_loss(args, serial); }, "distillation weight 1",
                                 "expected teacher logits");
  args.distill = 0;
  args.next_token = 0.5;
  test::expect_error<UsageError>([&] { distill_loss(args, serial); }, "next-token weight 0.5",
                                 "expected targets");
}

TEST_P(DistillLoss, NegativeLogLikelihoodLeavesTheLogits) {
  for (std::int64_t vocab_size : kOddSizes) {
    const LossProblem problem(5, vocab_size);
    for (int parts : {1, 2, 3}) {
      CutFor parallel(parts);
      Guarded<float> out(5);
      next_token_nll(problem.logits.data(), problem.targets.data(), 5, vocab_size, out.data(),
                     parallel);
      EXPECT_EQ(out.values(), run(problem, {1, 0, 1}, parallel).next);
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
