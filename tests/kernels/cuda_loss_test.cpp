#include <algorithm>
#include <limits>
#include <numeric>

#include "fbi/core/error.h"
#include "fbi/kernels/distill_loss.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaLoss = OnDevice;

struct Weights {
  double next_token, distill, temperature;
};
const std::vector<Weights> kWeights = {{1, 0, 1},     {0, 1, 1}, {0.5, 0.5, 1}, {0, 1, 2},
                                       {0.3, 0.7, 2}, {0, 0, 1}, {1, 0, 2}};
constexpr double kGradScale = 0.25;

template <class T>
struct Problem {
  std::int64_t tokens, vocab_size;
  std::vector<T> logits, teacher;
  std::vector<std::int32_t> targets;

  Problem(std::int64_t tokens_, std::int64_t vocab_size_)
      : tokens(tokens_),
        vocab_size(vocab_size_),
        logits(converted<T>(normals(tokens * vocab_size, 1, 3))),
        teacher(converted<T>(normals(tokens * vocab_size, 2, 3))) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      targets.push_back(static_cast<std::int32_t>((t * 7919 + vocab_size - 1) % vocab_size));
    }
  }
};

struct Losses {
  std::vector<float> gradient, next, distill;
};

/// `shift`: elements by which the logits miss alignment.
template <class T>
Losses on_device(const Problem<T>& problem, const Weights& weights, std::int64_t shift = 0) {
  std::vector<T> logits(static_cast<std::size_t>(shift));
  logits.insert(logits.end(), problem.logits.begin(), problem.logits.end());
  const DeviceArray<T> device(logits), teacher(problem.teacher);
  const DeviceArray<std::int32_t> targets(problem.targets);
  const DeviceArray<float> next(problem.tokens),
      distill(std::vector<float>(problem.targets.size(), -77.0f));
  DistillLossArgs args;
  args.logits = device.data() + shift;
  args.teacher_logits = weights.distill != 0 ? teacher.data() : nullptr;
  args.type = kElement<T>;
  args.targets = targets.data();
  args.tokens = problem.tokens;
  args.vocab_size = problem.vocab_size;
  args.next_token = weights.next_token;
  args.distill = weights.distill;
  args.temperature = weights.temperature;
  args.grad_scale = kGradScale;
  args.loss_next = next.data();
  args.loss_distill = distill.data();
  distill_loss(args, nullptr);
  auto gradient = widened(device.values());
  gradient.erase(gradient.begin(), gradient.begin() + shift);
  return {gradient, next.values(), distill.values()};
}

template <class T>
Losses by_reference(const Problem<T>& problem, const Weights& weights) {
  return reference([&] {
    Losses result = {widened(problem.logits), std::vector<float>(problem.targets.size()),
                     std::vector<float>(problem.targets.size(), -77.0f)};
    const auto teacher = widened(problem.teacher);
    SerialFor serial;
    kernels::distill_loss({.logits = result.gradient.data(),
                           .teacher_logits = weights.distill != 0 ? teacher.data() : nullptr,
                           .targets = problem.targets.data(),
                           .tokens = problem.tokens,
                           .vocab_size = problem.vocab_size,
                           .next_token = weights.next_token,
                           .distill = weights.distill,
                           .temperature = weights.temperature,
                           .grad_scale = kGradScale,
                           .loss_next = result.next.data(),
                           .loss_distill = result.distill.data()},
                          serial);
    return result;
  });
}

std::vector<double> softmax(const std::vector<float>& logits, std::int64_t token,
                            std::int64_t vocab_size, double temperature) {
  const auto row = logits.begin() + token * vocab_size;
  const double max = *std::max_element(row, row + vocab_size);
  std::vector<double> p(row, row + vocab_size);
  for (double& x : p) x = std::exp((x - max) / temperature);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

template <class T>
void expect_reference(const Problem<T>& problem, const Weights& weights, const Losses& found) {
  const Losses expected = by_reference(problem, weights);
  const double tau = weights.temperature;
  const auto logits = widened(problem.logits), teacher = widened(problem.teacher);
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    EXPECT_NEAR(found.next[t], expected.next[t], 1e-6 * std::max(1.0f, expected.next[t]));
    EXPECT_NEAR(found.distill[t], expected.distill[t],
                1e-6 * tau * tau * std::max(1.0, expected.distill[t] / (tau * tau)));
    const auto hard = softmax(logits, t, problem.vocab_size, 1),
               soft = softmax(logits, t, problem.vocab_size, tau);
    const auto q = softmax(teacher, t, problem.vocab_size, tau);
    for (std::int64_t v = 0; v < problem.vocab_size; ++v) {
      const double probabilities =
          weights.next_token * hard[v] + weights.distill * tau * (soft[v] + q[v]);
      const double value = expected.gradient[t * problem.vocab_size + v];
      // The bound of cuda.h, one rounding to the type, and the smallest value of fp16.
      const double tolerance = kGradScale * 3e-6 * probabilities + kRounding<T> * std::abs(value) +
                               6e-8 * (kElement<T> == Element::kFp16);
      ASSERT_NEAR(found.gradient[t * problem.vocab_size + v], value, tolerance + 1e-30)
          << "class " << v << " of token " << t;
    }
  }
}

TEST_F(CudaLoss, AgreesWithTheReferenceAtEverySize) {
  // One thread, tails of packs and warps, one block of 512 threads that goes around twice and more.
  for (std::int64_t vocab_size : {1, 7, 8, 33, 257, 520}) {
    for (const Weights& weights : kWeights) {
      SCOPED_TRACE(testing::Message()
                   << "vocabulary " << vocab_size << ", next " << weights.next_token << ", distill "
                   << weights.distill << ", temperature " << weights.temperature);
      for_each_type([&](auto element) {
        const Problem<decltype(element)> problem(2, vocab_size);
        expect_reference(problem, weights, on_device(problem, weights));
      });
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaLoss, LongRowsAgreeWithTheReference) {
  for (const Weights& weights : {Weights{0.5, 0.5, 1}, Weights{0.3, 0.7, 2}}) {
    const Problem<__nv_bfloat16> narrow(2, 8 * 1024 + 8);
    expect_reference(narrow, weights, on_device(narrow, weights));
    const Problem<float> wide(1, 4 * 1024 + 3);
    expect_reference(wide, weights, on_device(wide, weights));
  }
}

TEST_F(CudaLoss, TakesLogitsThatAreNotAlignedToPacks) {
  const Problem<float> problem(2, 64);
  const Losses aligned = on_device(problem, {0.5, 0.5, 2}),
               shifted = on_device(problem, {0.5, 0.5, 2}, 1);
  EXPECT_EQ(bits_of(shifted.gradient), bits_of(aligned.gradient));
  EXPECT_EQ(bits_of(shifted.next), bits_of(aligned.next));
  EXPECT_EQ(bits_of(shifted.distill), bits_of(aligned.distill));
}

TEST_F(CudaLoss, EveryRunGivesTheSameBits) {
  const Problem<float> problem(3, 1100);
  const Losses first = on_device(problem, {0.3, 0.7, 2});
  for (int run = 0; run < 3; ++run) {
    const Losses again = on_device(problem, {0.3, 0.7, 2});
    EXPECT_EQ(bits_of(again.gradient), bits_of(first.gradient));
    EXPECT_EQ(bits_of(again.distill), bits_of(first.distill));
  }
}

TEST_F(CudaLoss, ExtremeLogitsStayFinite) {
  for (float top : {88.0f, 1e4f, 1e30f}) {
    for (double temperature : {1.0, 2.0}) {
      Problem<float> problem(1, 300);
      std::fill(problem.logits.begin(), problem.logits.end(), -top);
      std::fill(problem.teacher.begin(), problem.teacher.end(), -top);
      problem.logits[233] = problem.teacher[233] = top;
      problem.targets[0] = 233;
      const Losses found = on_device(problem, {0.5, 0.5, temperature});
      EXPECT_NEAR(found.next[0], 0, 1e-30) << top;
      EXPECT_NEAR(found.distill[0], 0, 1e-30) << top;
      for (float g : found.gradient) EXPECT_NEAR(g, 0, 1e-30);
    }
  }
}

TEST_F(CudaLoss, MaskedTeacherClassesHaveProbabilityZero) {
  Problem<float> problem(1, 300);
  for (std::int64_t v = 20; v < 300; ++v) problem.teacher[v] = -INFINITY;
  expect_reference(problem, {0, 1, 1}, on_device(problem, {0, 1, 1}));
}

TEST_F(CudaLoss, NonFiniteLogitsReachTheLoss) {
  for (std::int64_t vocab_size : {17, 600}) {
    for (std::int64_t place : {std::int64_t{0}, vocab_size / 2, vocab_size - 1}) {
      for (float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY}) {
        Problem<float> student(2, vocab_size), teacher = student;
        student.logits[vocab_size + place] = bad;
        teacher.teacher[vocab_size + place] = bad;
        SCOPED_TRACE(testing::Message() << bad << " at " << place << " of " << vocab_size);
        EXPECT_FALSE(std::isfinite(on_device(student, {1, 0, 1}).next[1]));
        const Losses found = on_device(student, {0.5, 0.5, 2});
        EXPECT_FALSE(std::isfinite(found.next[1]));
        EXPECT_FALSE(std::isfinite(found.distill[1]));
        EXPECT_FALSE(std::isfinite(on_device(teacher, {0, 1, 1}).distill[1]));
        EXPECT_TRUE(std::isfinite(found.distill[0])) << "the other token is unharmed";
      }
      Problem<float> student(1, vocab_size);
      student.logits[place] = -INFINITY;
      EXPECT_FALSE(std::isfinite(on_device(student, {0, 1, 1}).distill[0]));
      student.targets[0] = static_cast<std::int32_t>(place);
      EXPECT_FALSE(std::isfinite(on_device(student, {1, 0, 1}).next[0]));
    }
  }
}

TEST_F(CudaLoss, ATargetOutsideOfTheVocabularyGivesNaN) {
  for (const Weights& weights : {Weights{1, 0, 1}, Weights{0.5, 0.5, 1}, Weights{0.5, 0.5, 2}}) {
    Problem<float> problem(3, 40);
    problem.targets = {3, 40, -1};
    const Losses found = on_device(problem, weights);
    for (int token : {0, 1, 2}) {
      EXPECT_EQ(std::isnan(found.next[token]), token != 0);
      if (weights.distill != 0) {
        EXPECT_EQ(std::isnan(found.distill[token]), token != 0);
      }
      for (int v = 0; v < 40; ++v)
        EXPECT_EQ(std::isnan(found.gradient[token * 40 + v]), token != 0);
    }
  }
}

TEST_F(CudaLoss, NegativeLogLikelihoodHasTheBitsOfTheLossAndLeavesTheLogits) {
  for_each_type([&](auto element) {
    using T = decltype(element);
    for (std::int64_t vocab_size : {9, 600}) {
      const Problem<T> problem(3, vocab_size);
      const DeviceArray<T> logits(problem.logits);
      const DeviceArray<std::int32_t> targets(problem.targets);
      const DeviceArray<float> out(3);
      next_token_nll(logits.data(), kElement<T>, targets.data(), 3, vocab_size, out.data(),
                     nullptr);
      EXPECT_EQ(bits_of(out.values()), bits_of(on_device(problem, {1, 0, 1}).next));
      EXPECT_EQ(widened(logits.values()), widened(problem.logits));
    }
  });
}

TEST_F(CudaLoss, RefusesBadArguments) {
  DistillLossArgs args;
  args.tokens = 3;
  args.vocab_size = 10;
  test::expect_error<UsageError>([&] { distill_loss(args, nullptr); }, "distillation weight 1",
                                 "expected teacher logits");
  args.distill = 0;
  args.next_token = 0.5;
  test::expect_error<UsageError>([&] { distill_loss(args, nullptr); }, "next-token weight 0.5",
                                 "expected targets");
  args.temperature = 0;
  test::expect_error<UsageError>([&] { distill_loss(args, nullptr); },
                                 "expected a positive number, found 0");
}

}  // namespace
}  // namespace fbi::kernels::cuda
