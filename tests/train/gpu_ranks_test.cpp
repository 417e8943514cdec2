// Training on several GPUs, a process for each, against one of them. Ranks are forked; this process
// itself touches no GPU and starts no threads, because children inherit neither.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/free_port.h"
#include "fbi/core/error.h"
#include "fbi/distributed/process_group.h"
#include "fbi/ops/device.h"
#include "support/child_process.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

constexpr int kRanks = 2;
constexpr std::int64_t kRankSteps = 6;
constexpr int kTooFewGpus = 77, kLost = 9, kPeerLost = 5;
// Gradients of two ranks are added in another order than those of two micro-steps.
constexpr double kTolerance = 1e-5;
// Sums of gradients that were rounded to 2^-8 before.
constexpr double kBf16Tolerance = 0.01;

class GpuRanks : public testing::Test {
 protected:
  void SetUp() override {
    test::Child child([] {
      if (!at::hasCUDA() || at::getNumGPUs() < kRanks) _exit(kTooFewGpus);
    });
    if (const int status = child.wait(); WEXITSTATUS(status) == kTooFewGpus)
      GTEST_SKIP() << "needs " << kRanks << " GPUs";
    else
      ASSERT_EQ(status, 0);
  }

  using Body = std::function<void(distributed::Communicator&)>;

  /// What each rank's process ended with.
  static std::vector<int> run_ranks(int size, const Body& body) {
    const int port = test::free_port();
    std::vector<std::unique_ptr<test::Child>> children;
    for (int rank = 0; rank < size; ++rank)
      children.push_back(std::make_unique<test::Child>([&, rank] {
        const at::Device gpu = ops::choose_device("cuda", rank);
        const auto ranks =
            distributed::make_nccl_group({rank, size, rank, "127.0.0.1", port, "test"}, gpu);
        body(*ranks);
      }));
    std::vector<int> statuses;
    for (auto& child : children) statuses.push_back(child->wait());
    return statuses;
  }

  void train(int size, const config::RunConfig& config, const std::string& name,
             const std::string& resume = "none") {
    for (const int status : run_ranks(size, [&](distributed::Communicator& ranks) {
           runs_.run_rank(ranks, config, name, resume);
         }))
      ASSERT_EQ(status, 0) << name;
  }

  config::RunConfig config(const std::string& kind) {
    EXPECT_EQ(test::Child([&] { runs_.config(kind); }).wait(), 0);  // the teacher takes threads
    config::RunConfig c = runs_.config(kind);
    c.train.steps = c.optimizer.total_steps = kRankSteps;
    c.optimizer.schedule_micro_steps = 2;  // the schedule of one rank on any number
    return c;
  }

  void expect_near(const std::string& found, const std::string& expected,
                   double tolerance = kTolerance) {
    const auto a = metrics_lines(runs_.path(found)), b = metrics_lines(runs_.path(expected));
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < b.size(); ++i) {
      const auto x = nlohmann::json::parse(a[i] + "}"), y = nlohmann::json::parse(b[i] + "}");
      for (const char* key : {"loss", "grad_norm"}) {
        const double value = y[key].get<double>();
        EXPECT_NEAR(x[key].get<double>(), value, tolerance * value) << key << ", step " << i + 1;
      }
    }
  }

  TinyRuns runs_;
};

TEST_F(GpuRanks, TrainAsOneDoes) {
  for (const char* kind : {"kd", "dense"}) {
    const auto c = config(kind);
    const std::string name = kind;
    train(1, c, name + "-1");
    train(kRanks, c, name + "-2");
    expect_near(name + "-2", name + "-1");
  }
}

TEST_F(GpuRanks, WithGradientsAndTeacherInPartsToo) {
  auto c = config("mixed");
  train(1, c, "one");
  c.parallel.shard_gradients = c.parallel.shard_teacher = true;
  train(kRanks, c, "parts");
  expect_near("parts", "one");
  c.train.precision = config::Precision::kBf16;
  c.parallel.gradient_dtype = config::Precision::kBf16;
  train(kRanks, c, "bf16");
  c.parallel = {};
  train(1, c, "one-bf16");
  expect_near("bf16", "one-bf16", kBf16Tolerance);
}

TEST_F(GpuRanks, AnotherNumberOfThemContinues) {
  auto c = config("kd");
  train(1, c, "one");
  c.checkpoint.every_steps = 3;
  train(kRanks, c, "two");
  copy_run_at(runs_.path("two"), runs_.path("continued"), 3);
  train(1, c, "continued", "auto");
  expect_near("continued", "one");
}

TEST_F(GpuRanks, ALostOneIsAnErrorOfTheOthers) {
  const auto c = config("kd");
  const auto statuses = run_ranks(kRanks, [&](distributed::Communicator& ranks) {
    try {
      runs_.run_rank(ranks, c, "lost", "none", [&](const StepMetrics& step) {
        if (ranks.rank() == 1 && step.step == 2) _exit(kLost);
      });
    } catch (const PeerError& error) {
      EXPECT_NE(std::string(error.what()).find("rank 1 (process"), std::string::npos);
      _exit(testing::Test::HasFailure() ? 1 : kPeerLost);
    }
  });
  EXPECT_EQ(WEXITSTATUS(statuses[1]), kLost);
  EXPECT_EQ(WEXITSTATUS(statuses[0]), kPeerLost);
}

}  // namespace
}  // namespace fbi::train
