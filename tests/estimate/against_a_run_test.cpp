// The estimator against what small runs really allocate and send, counted by LibTorch's allocator
// and by the communicator.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>

#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

#include "estimate/counting_allocator.h"
#include "fbi/config/load.h"
#include "fbi/distill/fp8_teacher.h"
#include "fbi/estimate/estimate.h"
#include "fbi/nn/weights.h"
#include "fbi/ops/parallel.h"
#include "fbi/train/memory_use.h"
#include "fbi/train/trainer.h"

namespace fbi::estimate {
namespace {

/// Rank 0 of a group whose other ranks send zeros. Memory and traffic are those of a real rank; one
/// thread needs no peer.
class LonelyRank final : public distributed::Communicator {
 public:
  explicit LonelyRank(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  std::string description() const override { return "rank 0 without peers"; }
  void barrier() override {}

 private:
  struct Done final : distributed::Work {
    void wait() override {}
  };
  using Handle = std::unique_ptr<distributed::Work>;

  Handle start_all_reduce(at::Tensor&, distributed::Reduce) override {
    return std::make_unique<Done>();
  }
  Handle start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    output.view({-1}).copy_(input.view({-1}).narrow(0, 0, output.numel()));
    return std::make_unique<Done>();
  }
  Handle start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    at::Tensor all = output.view({-1});
    all.narrow(0, 0, input.numel()).copy_(input.view({-1}));
    all.narrow(0, input.numel(), all.numel() - input.numel()).zero_();
    return std::make_unique<Done>();
  }

  int size_;
};

struct Case {
  std::string name;
  bool distill = true;
  bool recompute = false;
  config::Precision precision = config::Precision::kFp32;
  config::Binarize binarize = config::Binarize::kColumn;
  std::int64_t key_value_heads = 4;
  bool tied = false;
  int ranks = 1;
  bool shard_gradients = false;
  config::Precision gradients = config::Precision::kFp32;
  bool shard_teacher = false;
  bool tied_scales = false;
  bool shift = true;
  bool fp8_teacher = false;
  bool fp8_signs = false;
  std::string working_copy = "layer";
  std::int64_t teacher_micro_batch = 0;
  int micro_steps = 2;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

/// All parts of its memory are visible in the total, and a step takes milliseconds. 500 rows are
/// not divisible by 3 ranks.
config::ModelConfig small_model(const Case& c) {
  config::ModelConfig model;
  model.vocab_size = 500;
  model.hidden_size = 96;
  model.intermediate_size = 200;
  model.num_hidden_layers = 3;
  model.num_attention_heads = 4;
  model.num_key_value_heads = c.key_value_heads;
  model.max_position_embeddings = 128;
  model.tie_word_embeddings = c.tied;
  model.binarize = c.binarize;
  model.tie_scales = c.tied_scales;
  model.shift = c.shift;
  config::resolve(model);
  return model;
}

config::ModelConfig small_teacher() {
  config::ModelConfig model = small_model({});
  model.hidden_size = 128;
  model.intermediate_size = 300;
  model.num_hidden_layers = 2;
  model.head_dim = 32;
  model.binarize = config::Binarize::kNone;
  return model;
}

config::RunConfig small_run(const Case& c) {
  config::RunConfig config;
  config.model = small_model(c);
  config.objective =
      c.distill ? config::ObjectiveConfig{0, 1, 1} : config::ObjectiveConfig{1, 0, 1};
  config.train.seq_len = 128;
  config.train.micro_batch = 3;
  config.train.global_batch = 3 * c.micro_steps * c.ranks;
  config.train.steps = 2;
  config.train.loss_chunk_tokens = 100;
  config.train.precision = c.precision;
  config.train.recompute = c.recompute;
  config.parallel.shard_gradients = c.shard_gradients;
  config.parallel.gradient_dtype = c.gradients;
  config.parallel.shard_teacher = c.shard_teacher;
  if (c.fp8_teacher) config.teacher.dtype = "fp8";
  config.teacher.micro_batch = c.teacher_micro_batch;
  config.train.sign_products = c.fp8_signs ? "fp8" : "dense";
  config.train.working_copy = c.working_copy;
  config::resolve(config, c.ranks);
  return config;
}

at::ScalarType torch_dtype(config::Precision precision) {
  return precision == config::Precision::kBf16 ? at::kBFloat16 : at::kFloat;
}

void read_samples(std::int64_t first, std::int64_t, std::span<std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>((first * 7 + static_cast<std::int64_t>(i) * 29) % 500);
}

/// Builds what a session builds, reading the allocator after each part.
class SmallRun {
 public:
  explicit SmallRun(const Case& c) : config_(small_run(c)), communicator_(c.ranks) {
    ops::set_threads(1);
    if (c.distill) make_teacher();
    took(MemoryKind::kTeacher);
    student_ = std::make_unique<nn::LlamaForCausalLM>(
        config_.model, nn::LlamaOptions{at::kCPU, torch_dtype(c.precision)});
    took(MemoryKind::kValues);
    student_->allocate_gradients(train::layer_gradients(c.ranks, c.shard_gradients));
    took(MemoryKind::kGradients);
    optimizer_ = std::make_unique<optim::AdamW>(student_->slots(), config_.optimizer, communicator_,
                                                torch_dtype(c.gradients));
    took(MemoryKind::kMoments);
    sort_by_kind();
    trainer_ = std::make_unique<train::Trainer>(
        train::TrainerParts{*student_, teacher_.get(), *optimizer_, communicator_, read_samples},
        config_.objective, config_.train, optim::make_schedule(config_.optimizer),
        c.shard_gradients);
    took(MemoryKind::kWorkspace);
    nn::LoadReport report;
    const auto source = nn::random_weights(config_.model, 3);
    for (auto* slot : student_->slots())
      optimizer_->adopt_latent(*slot, nn::load_slot(*slot, *source, report));
    peaks_["loading"] = memory_.peak();
  }

  /// train::Trainer::step as it is.
  void step() {
    measure("step", [&] { trainer_->step(); });
  }

  /// The parts of train::Trainer::micro_step, and the update.
  void phases() {
    const auto& t = config_.train;
    const at::Tensor ids =
        at::randint(0, config_.model.vocab_size, {t.micro_batch, t.seq_len + 1}, at::kInt);
    const at::Tensor inputs = ids.slice(1, 0, t.seq_len).to(at::kLong);
    const at::Tensor targets = ids.slice(1, 1, t.seq_len + 1).reshape(-1);
    at::Tensor reference, hidden;
    if (teacher_) measure("teacher", [&] { reference = teacher_->hidden_states(inputs); });
    nn::LayerwisePass pass(*student_, t.recompute);
    measure("forward", [&] { hidden = pass.forward(inputs); });
    distill::Objective::Result loss;
    const distill::Objective objective(config_.objective, t.loss_chunk_tokens);
    measure("loss", [&] {
      loss = objective.run(*student_, hidden, teacher_ ? &teacher_->model() : nullptr, reference,
                           targets, 1e-3);
    });
    measure("backward", [&] { pass.backward(loss.dhidden); });
  }
  void update() {
    trainer_->micro_step(0);
    optimizer_->finish_gradients();
    measure("update", [&] { optimizer_->update(1e-3, 1.0); });
  }

  Estimate estimated() const {
    std::optional<TeacherPlan> teacher;
    if (teacher_)
      teacher = plan_teacher(small_teacher(), config_.teacher, at::kBFloat16, Processor::kCpu);
    return estimate(config_, teacher, communicator_.size(), Processor::kCpu);
  }
  MemoryByKind held() const { return train::held_memory(*optimizer_, teacher_.get()); }
  const std::map<MemoryKind, std::int64_t>& constant() const { return constant_; }
  const std::map<std::string, std::int64_t>& peaks() const { return peaks_; }
  const distributed::Traffic& traffic() const { return communicator_.traffic(); }

 private:
  void make_teacher() {
    const bool spread = config_.parallel.shard_teacher;
    auto model = std::make_unique<nn::LlamaForCausalLM>(
        small_teacher(), nn::LlamaOptions{at::kCPU, at::kBFloat16, at::kBFloat16, !spread});
    const auto weights = nn::random_weights(small_teacher(), 1);
    if (spread) {
      teacher_ = std::make_unique<distill::Teacher>(std::move(model), *weights, communicator_);
    } else {
      nn::load_weights(*model, *weights);
      teacher_ = std::make_unique<distill::Teacher>(std::move(model));
    }
    if (config_.teacher.dtype == "fp8")
      distill::store_as_fp8(teacher_->model(), at::zeros({1, 2}, at::kLong));
    teacher_->set_micro_batch(config_.teacher.micro_batch);
  }

  void took(MemoryKind kind) {
    constant_[kind] += memory_.live() - std::exchange(before_, memory_.live());
  }
  /// What was made together belongs to several kinds.
  void sort_by_kind() {
    const auto move = [&](MemoryKind from, MemoryKind to, const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      constant_[to] += static_cast<std::int64_t>(tensor.nbytes());
      constant_[from] -= static_cast<std::int64_t>(tensor.nbytes());
    };
    for (const auto& state : optimizer_->states()) {
      move(MemoryKind::kValues, MemoryKind::kBits, state.slot->bits);
      if (state.slot->kind == ops::SlotKind::kPacked)
        move(MemoryKind::kMoments, MemoryKind::kLatent, state.latent);
      move(MemoryKind::kMoments, MemoryKind::kGradients, state.grad);
      move(MemoryKind::kMoments, MemoryKind::kGradients, state.alpha_grad);
      move(MemoryKind::kMoments, MemoryKind::kGradients, state.beta_grad);
    }
  }

  template <class Work>
  void measure(const std::string& phase, Work work) {
    memory_.restart_peak();
    work();
    peaks_[phase] = memory_.peak();
  }

  CountingAllocator memory_;  // before everything that holds tensors
  std::int64_t before_ = 0;
  config::RunConfig config_;
  LonelyRank communicator_;
  std::map<MemoryKind, std::int64_t> constant_;
  std::map<std::string, std::int64_t> peaks_;
  std::unique_ptr<distill::Teacher> teacher_;
  std::unique_ptr<nn::LlamaForCausalLM> student_;
  std::unique_ptr<optim::AdamW> optimizer_;
  std::unique_ptr<train::Trainer> trainer_;
};

class EstimateAgainstARun : public ::testing::TestWithParam<Case> {};
class PhasesAgainstARun : public ::testing::TestWithParam<Case> {};

/// Exact, but for the rotary frequencies of a model, and for up to one row per matrix that an
/// uneven share rounds up.
TEST_P(EstimateAgainstARun, ConstantMemory) {
  const SmallRun run(GetParam());
  const auto estimated = run.estimated();
  for (std::size_t kind = 0; kind < kMemoryKinds; ++kind) {
    const auto found = run.constant().find(static_cast<MemoryKind>(kind));
    const std::int64_t measured = found == run.constant().end() ? 0 : found->second;
    const double slack = 64 + (GetParam().ranks == 3 ? 0.005 * static_cast<double>(measured) : 0);
    EXPECT_NEAR(static_cast<double>(estimated.memory.constant[kind]), static_cast<double>(measured),
                slack)
        << to_string(static_cast<MemoryKind>(kind));
  }
}

/// What a run says of its own tensors: as the allocator counted them, and as estimated.
TEST_P(EstimateAgainstARun, HeldTensorsByKind) {
  const SmallRun run(GetParam());
  const auto estimated = run.estimated().memory.constant;
  const auto held = run.held();
  for (std::size_t i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    const auto counted = run.constant().find(kind);
    const auto bytes = static_cast<double>(held[i]);
    EXPECT_NEAR(bytes, counted == run.constant().end() ? 0.0 : static_cast<double>(counted->second),
                64)
        << to_string(kind);
    EXPECT_NEAR(bytes, static_cast<double>(estimated[i]),
                GetParam().ranks == 3 ? 0.005 * bytes : 0.0)
        << to_string(kind);
  }
}

/// Traffic byte for byte; what the run loop asks for after a step is not part of
/// train::Trainer::step.
TEST_P(EstimateAgainstARun, PeakWithinOnePercentAndTraffic) {
  SmallRun run(GetParam());
  run.step();
  const auto estimated = run.estimated();
  const auto& peak = estimated.memory.peak();
  EXPECT_NEAR(
      static_cast<double>(total_bytes(peak.bytes)) / static_cast<double>(run.peaks().at("step")),
      1.0, 0.01)
      << peak.name;

  const auto& t = estimated.traffic;
  const auto counted = [&](distributed::Payload payload) {
    return run.traffic()[static_cast<std::size_t>(payload)];
  };
  EXPECT_EQ(counted(distributed::Payload::kGradients), t.gradients);
  EXPECT_EQ(counted(distributed::Payload::kBits), t.bits);
  EXPECT_EQ(counted(distributed::Payload::kValues), t.values);
  EXPECT_EQ(counted(distributed::Payload::kScales), t.scales);
  EXPECT_EQ(counted(distributed::Payload::kTeacher), t.teacher);
  const std::int64_t ranks = GetParam().ranks, run_loop = 2 * (ranks - 1) * 8 / ranks;
  EXPECT_EQ(counted(distributed::Payload::kControl) + run_loop, t.control);

  const auto& loading = estimated.memory.phases.front();
  ASSERT_EQ(loading.name, "loading");
  EXPECT_NEAR(static_cast<double>(total_bytes(loading.bytes)) /
                  static_cast<double>(run.peaks().at("loading")),
              1.0, 0.02);
  EXPECT_LT(total_bytes(loading.bytes), total_bytes(peak.bytes));

  run.update();
  const auto& update = estimated.memory.phases.back();
  ASSERT_EQ(update.name, "update");
  EXPECT_NEAR(static_cast<double>(total_bytes(update.bytes)) /
                  static_cast<double>(run.peaks().at("update")),
              1.0, 0.01);
}

/// Of the memory that comes and goes. Forward passes: 7 %, because in bf16 oneDNN takes scratch
/// that grows with the shape of a product; all others: 2 %, for the buffers of CPU attention and
/// the vectors of each layer.
TEST_P(PhasesAgainstARun, EveryPhase) {
  SmallRun run(GetParam());
  if (GetParam().micro_steps > 1) run.phases();  // later ones find gradients of layers
  run.phases();
  const auto memory = run.estimated().memory;
  const std::int64_t constant = total_bytes(memory.constant);
  for (const auto& phase : memory.phases) {
    const auto found = run.peaks().find(phase.name);
    if (found == run.peaks().end() || phase.name == "loading") continue;
    const double measured = static_cast<double>(found->second - constant);
    const double tolerance = phase.name == "teacher" || phase.name == "forward" ? 0.07 : 0.02;
    EXPECT_NEAR(static_cast<double>(total_bytes(phase.bytes) - constant) / measured, 1.0, tolerance)
        << phase.name;
  }
}

using config::Binarize;
using config::Precision;

constexpr auto kBf16 = Precision::kBf16;

std::vector<Case> one_rank() {
  return {{.name = "kd"},
          {.name = "kd_recompute", .recompute = true},
          {.name = "kd_one_micro_step", .micro_steps = 1},
          {.name = "kd_one_micro_step_bf16_recompute",
           .recompute = true,
           .precision = kBf16,
           .micro_steps = 1},
          {.name = "kd_bf16", .precision = kBf16},
          {.name = "kd_bf16_recompute", .recompute = true, .precision = kBf16},
          {.name = "fp8_teacher", .fp8_teacher = true},
          {.name = "fp8_signs", .fp8_signs = true},
          {.name = "fp8_signs_bf16_recompute_copy",
           .recompute = true,
           .precision = kBf16,
           .fp8_signs = true,
           .working_copy = "step"},
          {.name = "kd_copy", .working_copy = "step"},
          {.name = "kd_bf16_recompute_copy",
           .recompute = true,
           .precision = kBf16,
           .working_copy = "step"},
          {.name = "teacher_one_by_one", .teacher_micro_batch = 1},
          {.name = "fp8_teacher_one_by_one", .fp8_teacher = true, .teacher_micro_batch = 1},
          {.name = "dense", .distill = false, .binarize = Binarize::kNone},
          {.name = "dense_bf16_recompute",
           .distill = false,
           .recompute = true,
           .precision = kBf16,
           .binarize = Binarize::kNone},
          {.name = "shared_heads", .binarize = Binarize::kRow, .key_value_heads = 2},
          {.name = "shared_heads_bf16",
           .recompute = true,
           .precision = kBf16,
           .binarize = Binarize::kRow,
           .key_value_heads = 2},
          {.name = "tied", .distill = false, .tied = true},
          {.name = "tied_scales", .distill = false, .tied_scales = true},
          {.name = "tied_scales_no_shift",
           .distill = false,
           .key_value_heads = 2,
           .tied_scales = true,
           .shift = false}};
}

std::vector<Case> several_ranks() {
  return {
      {.name = "ranks", .ranks = 4},
      {.name = "ranks_recompute_bf16",
       .recompute = true,
       .precision = kBf16,
       .ranks = 4,
       .gradients = kBf16},
      {.name = "ranks_tied_scales_no_shift",
       .distill = false,
       .ranks = 4,
       .tied_scales = true,
       .shift = false},
      {.name = "ranks_uneven_dense", .distill = false, .binarize = Binarize::kNone, .ranks = 3},
      {.name = "ranks_sharded_teacher", .recompute = true, .ranks = 3, .shard_teacher = true},
      {.name = "ranks_sharded_teacher_one_by_one",
       .ranks = 4,
       .shard_teacher = true,
       .teacher_micro_batch = 1},
      {.name = "ranks_copy", .ranks = 4, .working_copy = "step"},
      {.name = "ranks_sharded_gradients", .recompute = true, .ranks = 4, .shard_gradients = true},
      {.name = "ranks_tied_sharded_gradients", .tied = true, .ranks = 2, .shard_gradients = true}};
}

const auto name_of = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(OneRank, EstimateAgainstARun, ::testing::ValuesIn(one_rank()), name_of);
INSTANTIATE_TEST_SUITE_P(OneRank, PhasesAgainstARun, ::testing::ValuesIn(one_rank()), name_of);
INSTANTIATE_TEST_SUITE_P(SeveralRanks, EstimateAgainstARun, ::testing::ValuesIn(several_ranks()),
                         name_of);

}  // namespace
}  // namespace fbi::estimate
