#include "fbi/estimate/estimate.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "estimate/parameter_shapes.h"
#include "estimate/step_walk.h"
#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/distill/teacher.h"

namespace fbi::estimate {

Processor planned_processor(const config::RunConfig& config) {
  return config.train.device == "cpu" ? Processor::kCpu : Processor::kGpu;
}

namespace {

constexpr std::int64_t kBf16Bytes = 2;
constexpr std::int64_t kStateBytes = 12;  // latent weight and two moments, fp32

/// As distributed::Communicator counts them.
class Ring {
 public:
  explicit Ring(int world_size) : ranks_(world_size) {}
  std::int64_t gather(std::int64_t block_bytes) const { return (ranks_ - 1) * block_bytes; }
  std::int64_t all_reduce(std::int64_t bytes) const { return 2 * (ranks_ - 1) * bytes / ranks_; }

 private:
  std::int64_t ranks_;
};

TrafficEstimate traffic_of(const config::RunConfig& config,
                           const std::optional<TeacherPlan>& teacher, int world_size,
                           std::int64_t micro_steps) {
  const Ring ring(world_size);
  const auto student = parameter_shapes(config.model);
  const auto block = [&](const ParameterMatrix& m) { return m.block_rows(world_size); };
  const std::int64_t matrices =
      student.over_matrices([&](const ParameterMatrix& m) { return block(m) * m.columns; });
  const std::int64_t packed = student.over_matrices(
      [&](const ParameterMatrix& m) { return m.packed ? block(m) * m.columns : 0; });
  const std::int64_t gradient_bytes =
      config.parallel.gradient_dtype == config::Precision::kBf16 ? kBf16Bytes : kFloatBytes;

  TrafficEstimate traffic;
  traffic.gradients =
      ring.gather(matrices * gradient_bytes) * (config.parallel.shard_gradients ? micro_steps : 1);
  traffic.bits = ring.gather(student.over_matrices(
      [&](const ParameterMatrix& m) { return m.packed ? block(m) * m.row_bits_bytes() : 0; }));
  traffic.values = ring.gather((matrices - packed) * kFloatBytes);
  traffic.scales = ring.all_reduce((student.norm_elements + student.scale_elements) * kFloatBytes);
  // Flips and squares of every slot, both losses, what signals and clocks ask for.
  traffic.control =
      2 * ring.all_reduce(student.slots * 8) + ring.all_reduce(2 * 8) + ring.all_reduce(2 * 4);
  if (teacher && config.parallel.shard_teacher) {
    const auto shapes = parameter_shapes(teacher->model);
    const std::int64_t layer =
        shapes.over_layer([&](const ParameterMatrix& m) { return block(m) * m.columns; });
    traffic.teacher = micro_steps * shapes.layers * ring.gather(layer * teacher->value_bytes);
  }
  traffic.bf16_gathers_of_linears = 2 * micro_steps * ring.gather(packed * kBf16Bytes);
  traffic.bf16_gathers = 2 * micro_steps * ring.gather(matrices * kBf16Bytes);
  return traffic;
}

/// One forward pass for one token.
struct ForwardFlops {
  double decoder = 0, head = 0;
};

double decoder_matrix_flops(const config::ModelConfig& model) {
  double weights = 0;
  for (const auto& linear : config::decoder_linears(model))
    weights += static_cast<double>(linear.outputs) * static_cast<double>(linear.inputs);
  return static_cast<double>(model.num_hidden_layers) * 2 * weights;
}

ForwardFlops forward_flops(const config::ModelConfig& model, std::int64_t seq_len) {
  // Scores and mixing: 2 products of S/2 positions on average, 2 operations each.
  const double attention =
      2.0 * static_cast<double>(seq_len * model.num_attention_heads * model.head_dim);
  return {decoder_matrix_flops(model) + static_cast<double>(model.num_hidden_layers) * attention,
          2.0 * static_cast<double>(model.vocab_size) * static_cast<double>(model.hidden_size)};
}

/// All divisors of `count`, largest first.
std::vector<std::int64_t> divisors(std::int64_t count) {
  std::vector<std::int64_t> out;
  for (std::int64_t d = count; d >= 1; --d)
    if (count % d == 0) out.push_back(d);
  return out;
}

/// A setting that saves memory at a price, and how it is switched on.
struct Option {
  const char* change;
  bool usable;  ///< not set already, and of any effect
  void (*apply)(config::RunConfig& config);
};

std::vector<Option> options_for(const config::RunConfig& config,
                                const std::optional<TeacherPlan>& teacher, int world_size) {
  const bool parallel = world_size > 1;
  const bool whole_teacher = config.objective.distill > 0 && !config.parallel.shard_teacher;
  return {{"train.recompute=true", !config.train.recompute,
           [](config::RunConfig& c) { c.train.recompute = true; }},
          {"train.working_copy=layer", config.train.working_copy == "step",
           [](config::RunConfig& c) { c.train.working_copy = "layer"; }},
          {"teacher.micro_batch=1",
           config.objective.distill > 0 && config.train.micro_batch > 1 &&
               config.teacher.micro_batch != 1,
           [](config::RunConfig& c) { c.teacher.micro_batch = 1; }},
          {"parallel.gradient_dtype=bf16",
           parallel && config.parallel.gradient_dtype != config::Precision::kBf16,
           [](config::RunConfig& c) { c.parallel.gradient_dtype = config::Precision::kBf16; }},
          {"parallel.shard_gradients=true", parallel && !config.parallel.shard_gradients,
           [](config::RunConfig& c) { c.parallel.shard_gradients = true; }},
          {"parallel.shard_teacher=true",
           parallel && whole_teacher && !teacher->fp8 &&
               teacher->model.binarize == config::Binarize::kNone,
           [](config::RunConfig& c) { c.parallel.shard_teacher = true; }}};
}

/// Of those that the run makes by itself: a stop makes one besides.
std::int64_t kept_checkpoints(const config::CheckpointConfig& checkpoint, std::int64_t steps) {
  const auto& [every_steps, every_seconds, at_end, keep, keep_every] = checkpoint;
  const auto multiples = [steps](std::int64_t every) { return every > 0 ? steps / every : 0; };
  const std::int64_t for_good = multiples(keep_every);
  std::int64_t others = multiples(every_steps) - multiples(std::lcm(every_steps, keep_every));
  const auto divides = [steps](std::int64_t every) { return every > 0 && steps % every == 0; };
  if (at_end && !divides(every_steps) && !divides(keep_every)) ++others;
  if (every_seconds > 0) others = steps - for_good;  // after any step
  return for_good + std::min(keep, others);
}

}  // namespace

std::int64_t total_bytes(const MemoryByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

const MemoryPhase& MemoryEstimate::peak() const {
  return *std::max_element(phases.begin(), phases.end(),
                           [](const MemoryPhase& a, const MemoryPhase& b) {
                             return total_bytes(a.bytes) < total_bytes(b.bytes);
                           });
}

TokenFlops token_flops(const config::RunConfig& config, const config::ModelConfig* teacher) {
  const auto student = forward_flops(config.model, config.train.seq_len);
  TokenFlops flops;
  flops.student = 3 * (student.decoder + student.head);
  if (multiplies_in_fp8(config)) flops.student_fp8 = decoder_matrix_flops(config.model);
  if (config.train.recompute) flops.recompute = student.decoder;
  if (teacher) {
    const auto forward = forward_flops(*teacher, config.train.seq_len);
    flops.teacher = forward.decoder + forward.head;
    if (config.teacher.dtype == "fp8") flops.teacher_fp8 = decoder_matrix_flops(*teacher);
  }
  return flops;
}

TeacherPlan plan_teacher(const config::ModelConfig& model, const config::TeacherConfig& teacher,
                         at::ScalarType stored, Processor processor) {
  const auto [weights, compute] =
      distill::teacher_dtypes(teacher.dtype, stored, processor == Processor::kGpu);
  const auto bytes = [](at::ScalarType dtype) {
    return static_cast<std::int64_t>(c10::elementSize(dtype));
  };
  return {model, bytes(weights), bytes(compute), teacher.dtype == "fp8"};
}

std::int64_t Estimate::bytes_of_checkpoints(std::int64_t count) const {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  return checkpoint_bytes > 0 && count > kMost / checkpoint_bytes ? kMost
                                                                  : count * checkpoint_bytes;
}

Estimate estimate(const config::RunConfig& config, const std::optional<TeacherPlan>& teacher,
                  int world_size, Processor processor) {
  const bool distills = config.objective.distill > 0;
  if (distills && !teacher)
    throw UsageError("estimate: objective.distill > 0 needs the teacher's architecture");
  const std::optional<TeacherPlan> used = distills ? teacher : std::nullopt;
  Estimate result;
  result.world_size = world_size;
  result.micro_steps = config::micro_steps_per_step(config.train, world_size);
  result.tokens_per_step = config.train.global_batch * config.train.seq_len;
  result.steps = config.train.steps;
  result.memory = walk_step(config, used, world_size, processor);
  result.traffic = traffic_of(config, used, world_size, result.micro_steps);
  result.flops = token_flops(config, used ? &used->model : nullptr);
  result.checkpoint_bytes = kStateBytes * config::parameter_counts(config.model).total();
  result.kept_checkpoints = kept_checkpoints(config.checkpoint, result.steps);
  result.disk_bytes = result.bytes_of_checkpoints(result.kept_checkpoints + 1);
  return result;
}

std::vector<FittingSettings> find_fitting_settings(const config::RunConfig& config,
                                                   const std::optional<TeacherPlan>& teacher,
                                                   int world_size, Processor processor,
                                                   std::int64_t budget_bytes) {
  const auto options = options_for(config, teacher, world_size);
  const auto micro_batches = divisors(config.train.micro_batch);
  /// The options of a subset with the largest micro-batch that fits, the configured one or smaller
  /// ones.
  const auto try_subset = [&](unsigned subset, bool smaller) -> std::optional<FittingSettings> {
    FittingSettings found;
    config::RunConfig changed = config;
    for (std::size_t i = 0; i < options.size(); ++i) {
      if (!((subset >> i) & 1)) continue;
      if (!options[i].usable) return std::nullopt;
      options[i].apply(changed);
      found.changes.emplace_back(options[i].change);
    }
    for (const std::int64_t micro_batch : micro_batches) {
      if ((micro_batch != config.train.micro_batch) != smaller) continue;
      const std::int64_t own = changed.teacher.micro_batch;
      if (own > 0 && micro_batch % own != 0) continue;
      changed.train.micro_batch = micro_batch;
      found.estimate = estimate(changed, teacher, world_size, processor);
      if (total_bytes(found.estimate.memory.peak().bytes) > budget_bytes) continue;
      if (smaller) found.changes.push_back(concat("train.micro_batch=", micro_batch));
      return found;
    }
    return std::nullopt;
  };

  std::vector<FittingSettings> found;
  for (int changes = 0; changes <= static_cast<int>(options.size()) + 1 && found.empty(); ++changes)
    for (unsigned subset = 0; subset < 1u << options.size(); ++subset) {
      const int smaller = changes - std::popcount(subset);
      if (smaller != 0 && smaller != 1) continue;
      if (auto settings = try_subset(subset, smaller == 1)) found.push_back(std::move(*settings));
    }
  return found;
}

}  // namespace fbi::estimate
