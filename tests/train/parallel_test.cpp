// Data-parallel training against itself: threads, Gloo and one rank. Ranks are forked processes or
// threads of one; this process itself starts no threads, because children inherit none of them.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "distributed/free_port.h"
#include "distributed/ranks.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "fbi/distributed/agreement.h"
#include "fbi/distributed/process_group.h"
#include "fbi/nn/weights.h"
#include "fbi/train/trainer.h"
#include "support/child_process.h"
#include "support/temp_dir.h"
#include "train/read_samples.h"

namespace fbi::train {
namespace {

constexpr int kRankSteps = 20;

struct Case {
  std::string objective;  ///< kd | mixed | dense
  bool recompute = false;
  bool shard_gradients = false;
  bool shard_teacher = false;
  config::Precision wire = config::Precision::kFp32;
  bool tied = false;
  config::Binarize pattern = config::Binarize::kColumn;
  bool tied_scales_no_shift = false;
  std::string working_copy = "layer";
};

config::ModelConfig tiny_model(const Case& c, bool teacher) {
  config::ModelConfig model;
  model.vocab_size = kSampleVocab;
  model.hidden_size = 16;
  model.intermediate_size = 22;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.max_position_embeddings = 8;
  model.tie_word_embeddings = c.tied && !teacher;
  model.binarize = teacher || c.objective == "dense" ? config::Binarize::kNone : c.pattern;
  model.tie_scales = c.tied_scales_no_shift && !teacher;
  model.shift = !model.tie_scales;
  config::resolve(model);
  return model;
}

config::ObjectiveConfig objective(const Case& c) {
  if (c.objective == "kd") return {0, 1, 1};
  if (c.objective == "mixed") return {0.5, 0.5, 2};
  return {1, 0, 1};
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

/// Hash of all that must be the same on every rank.
std::string replicated_hash(const nn::LlamaForCausalLM& model) {
  Hasher128 hash;
  for (const auto* slot : model.slots())
    for (const auto* tensor : {&slot->bits, &slot->alpha, &slot->beta, &slot->value})
      if (tensor->defined()) hash.update(bytes_of(*tensor));
  return hash.hex();
}

/// What a rank saw: a line for each step with every number in hexadecimal, and all parameters at
/// the end.
struct Seen {
  std::string lines;
  std::vector<double> losses;
  std::vector<float> parameters;
};

std::string pack(const std::string& lines, const std::vector<float>& parameters) {
  return concat(lines.size(), "\n", lines) +
         std::string(reinterpret_cast<const char*>(parameters.data()),
                     parameters.size() * sizeof(float));
}

Seen unpack(const std::string& text) {
  Seen seen;
  const auto end = text.find('\n');
  const auto length = std::stoul(text.substr(0, end));
  seen.lines = text.substr(end + 1, length);
  seen.parameters.resize((text.size() - end - 1 - length) / sizeof(float));
  std::memcpy(seen.parameters.data(), text.data() + end + 1 + length,
              seen.parameters.size() * sizeof(float));
  std::istringstream lines(seen.lines);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("loss ")) seen.losses.push_back(std::strtod(line.c_str() + 5, nullptr));
  return seen;
}

std::string hexadecimal(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%a", value);
  return text;
}

/// Rows of all ranks, in rank order.
void append_whole(distributed::Communicator& communicator, const optim::NamedTensor& tensor,
                  std::vector<float>& out) {
  const at::Tensor rows = tensor.tensor.contiguous();
  const auto* data = static_cast<const char*>(rows.const_data_ptr());
  std::vector<std::string> parts = {std::string(data, rows.nbytes())};
  if (tensor.total_rows >= 0) parts = distributed::all_gather_text(communicator, parts[0]);
  for (const auto& part : parts) {
    const std::size_t count = part.size() / sizeof(float), before = out.size();
    out.resize(before + count);
    std::memcpy(out.data() + before, part.data(), part.size());
  }
}

std::unique_ptr<distill::Teacher> make_teacher(distributed::Communicator& communicator,
                                               const Case& c) {
  const auto model = tiny_model(c, true);
  const auto weights = nn::random_weights(model, 4);
  const bool shard = c.shard_teacher && communicator.size() > 1;
  auto llama =
      std::make_unique<nn::LlamaForCausalLM>(model, nn::LlamaOptions{.allocate_layers = !shard});
  if (shard) return std::make_unique<distill::Teacher>(std::move(llama), *weights, communicator);
  nn::load_weights(*llama, *weights);
  return std::make_unique<distill::Teacher>(std::move(llama));
}

std::string train_rank(distributed::Communicator& communicator, const Case& c) {
  at::set_num_threads(1);
  config::TrainConfig train;
  train.seq_len = 8;
  train.global_batch = 4;
  train.micro_batch = 1;
  train.loss_chunk_tokens = 5;
  train.recompute = c.recompute;
  train.sign_products = "dense";
  train.working_copy = c.working_copy;
  config::OptimizerConfig adamw;

  nn::LlamaForCausalLM student(tiny_model(c, false), {});
  student.allocate_gradients(layer_gradients(communicator.size(), c.shard_gradients));
  optim::AdamW optimizer(student.slots(), adamw, communicator,
                         c.wire == config::Precision::kBf16 ? at::kBFloat16 : at::kFloat);
  const auto source = nn::random_weights(student.config(), 3);
  nn::LoadReport report;
  for (auto* slot : student.slots())
    optimizer.adopt_latent(*slot, nn::load_slot(*slot, *source, report));
  const auto teacher = make_teacher(communicator, c);
  Trainer trainer({student, c.objective == "dense" ? nullptr : teacher.get(), optimizer,
                   communicator, read_samples},
                  objective(c), train, optim::Schedule{3e-3, 3e-4, 2, 100, 4}, c.shard_gradients);

  std::string lines;
  for (int step = 0; step < kRankSteps; ++step) {
    const StepMetrics metrics = trainer.step();
    lines += concat("loss ", hexadecimal(metrics.loss), " norm ", hexadecimal(metrics.grad_norm),
                    " flips ", metrics.flips, " samples ", metrics.sample_first, "+",
                    metrics.sample_count, " state ", replicated_hash(student), "\n");
  }
  std::vector<float> parameters;
  for (const auto& tensor : optimizer.named_tensors())
    if (!tensor.name.starts_with("optimizer.")) append_whole(communicator, tensor, parameters);
  return pack(lines, parameters);
}

/// The texts of `size` ranks in threads of one child process, or in a child process each over Gloo.
std::vector<std::string> run(const std::string& transport, int size, const Case& c) {
  const test::TempDir folder;
  const auto keep = [&](int rank, const std::string& text) {
    write_file(folder / std::to_string(rank), text);
  };
  std::vector<std::unique_ptr<test::Child>> children;
  if (transport == "threads") {
    children.push_back(std::make_unique<test::Child>([&] {
      test::run_ranks_ok(size, [&](distributed::Communicator& communicator) {
        keep(communicator.rank(), train_rank(communicator, c));
      });
    }));
  } else {
    const int port = test::free_port();
    for (int rank = 0; rank < size; ++rank) {
      children.push_back(std::make_unique<test::Child>([&, rank] {
        const distributed::Rendezvous place{rank, size, rank, "127.0.0.1", port, "test"};
        const auto communicator = distributed::make_gloo_group(place);
        keep(rank, train_rank(*communicator, c));
      }));
    }
  }
  for (auto& child : children) EXPECT_EQ(child->wait(), 0);
  std::vector<std::string> texts;
  for (int rank = 0; rank < size; ++rank) texts.push_back(read_file(folder / std::to_string(rank)));
  return texts;
}

/// All ranks alike; threads and Gloo alike, bit for bit. Returns what they all saw.
Seen expect_one_result(int size, const Case& c) {
  const auto threads = run("threads", size, c);
  for (const auto& text : threads) EXPECT_TRUE(text == threads[0]) << "ranks differ";
  if (size > 1) EXPECT_TRUE(run("gloo", size, c) == threads) << "Gloo and threads differ";
  return unpack(threads[0]);
}

/// Bounds for runs of one global batch on different numbers of ranks: only the order of sums
/// differs.
void expect_close(const Seen& found, const Seen& expected) {
  ASSERT_EQ(found.losses.size(), expected.losses.size());
  for (std::size_t step = 0; step < expected.losses.size(); ++step)
    EXPECT_NEAR(found.losses[step], expected.losses[step], 1e-6 * expected.losses[step])
        << "step " << step + 1;
  ASSERT_EQ(found.parameters.size(), expected.parameters.size());
  std::size_t far = 0, signs = 0;
  for (std::size_t i = 0; i < expected.parameters.size(); ++i) {
    far += std::abs(found.parameters[i] - expected.parameters[i]) > 1e-5f;
    signs += (found.parameters[i] >= 0) != (expected.parameters[i] >= 0);
  }
  EXPECT_LE(far, static_cast<std::size_t>(1e-4 * static_cast<double>(expected.parameters.size())));
  EXPECT_LE(signs,
            static_cast<std::size_t>(1e-5 * static_cast<double>(expected.parameters.size())));
}

class Parallel : public testing::TestWithParam<std::tuple<std::string, bool>> {};

TEST_P(Parallel, RanksAgreeBitForBitAndWithOneRankToRounding) {
  const auto& [objective_name, recompute] = GetParam();
  const Case c{objective_name, recompute};
  const Seen one = expect_one_result(1, c);
  for (const int size : {2, 4}) expect_close(expect_one_result(size, c), one);
}

INSTANTIATE_TEST_SUITE_P(Matrix, Parallel,
                         testing::Combine(testing::Values("kd", "mixed", "dense"), testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) ? "Recompute" : "");
                         });

TEST(ParallelOptions, ShardedGradientsAreTheSameGradients) {
  for (const bool tied : {false, true}) {
    Case c{"kd", true};
    c.tied = tied;
    const Seen one = expect_one_result(1, c);
    c.shard_gradients = true;
    for (const int size : {1, 2}) expect_close(expect_one_result(size, c), one);
  }
}

TEST(ParallelOptions, ATeacherInPartsGivesTheSameBits) {
  Case c{"kd"};
  const Seen whole = expect_one_result(4, c);
  c.shard_teacher = true;
  EXPECT_EQ(expect_one_result(4, c).lines, whole.lines);
}

TEST(ParallelOptions, AWorkingCopyForTheWholeStepGivesTheSameBits) {
  Case c{"kd"};
  for (const bool shard_gradients : {false, true}) {
    c.shard_gradients = shard_gradients;
    c.working_copy = "layer";
    const Seen unpacked_by_layer = expect_one_result(2, c);
    c.working_copy = "step";
    const Seen unpacked_by_step = expect_one_result(2, c);
    EXPECT_EQ(unpacked_by_step.lines, unpacked_by_layer.lines);
    EXPECT_EQ(unpacked_by_step.parameters, unpacked_by_layer.parameters);
  }
}

TEST(ParallelOptions, EveryScalePattern) {
  for (const auto pattern : {config::Binarize::kRow, config::Binarize::kSingle}) {
    Case c{"kd"};
    c.pattern = pattern;
    expect_close(expect_one_result(4, c), expect_one_result(1, c));
  }
}

TEST(ParallelOptions, TiedScalesWithoutShift) {
  Case c{"mixed"};
  c.tied_scales_no_shift = true;
  const Seen one = expect_one_result(1, c);
  expect_close(expect_one_result(2, c), one);
  c.shard_gradients = true;
  expect_close(expect_one_result(4, c), one);
}

TEST(ParallelOptions, Bf16OnTheWireIsCloseAndTheSameOnAllRanks) {
  Case c{"kd"};
  const Seen exact = expect_one_result(2, c);
  c.wire = config::Precision::kBf16;
  const Seen rounded = expect_one_result(2, c);
  EXPECT_NE(rounded.lines, exact.lines);
  // A gradient's relative error of 2^-9 moves the loss of an early step by far less than that.
  for (int step = 0; step < 5; ++step)
    EXPECT_NEAR(rounded.losses[step], exact.losses[step], 2e-3 * exact.losses[step]);
}

}  // namespace
}  // namespace fbi::train
