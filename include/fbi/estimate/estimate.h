#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/config/run_config.h"

/// What a run needs, computed from its configuration alone: memory of a rank, traffic between
/// ranks, arithmetic, disk. No tensor is made. tests/estimate/against_a_run_test.cpp holds the
/// figures to what small runs really allocate and send.
namespace fbi::estimate {

/// What a rank's memory is used for.
enum class MemoryKind {
  kLatent,   ///< fp32 latent weights of binarized layers: this rank's rows
  kMoments,  ///< both AdamW moments of this rank's rows, and of everything that is replicated
  kBits,     ///< packed signs, all rows
  kValues,   ///< full-precision working copies: embedding, head, norms, scales; dense linear layers
  kGradients,    ///< fp32 gradient buffers
  kTeacher,      ///< the teacher's weights
  kActivations,  ///< student and teacher between forward and backward, and their gradients
  kLossChunk,    ///< logits of one chunk of tokens, and the head as they are multiplied with it
  kWorkspace,    ///< unpacked weights, operands in another type, buffers of collectives
};
inline constexpr std::size_t kMemoryKinds = 9;
std::string_view to_string(MemoryKind kind);  ///< e.g. "loss_chunk"
using MemoryByKind = std::array<std::int64_t, kMemoryKinds>;
std::int64_t total_bytes(const MemoryByKind& bytes);

/// The moment of a phase at which most memory is in use.
struct MemoryPhase {
  std::string name;  ///< loading | teacher | forward | loss | backward | update
  MemoryByKind bytes{};
};

struct MemoryEstimate {
  MemoryByKind constant{};          ///< what is there all the time
  std::vector<MemoryPhase> phases;  ///< in the order in which they happen; `constant` included
  const MemoryPhase& peak() const;
};

/// Bytes that each rank sends per optimizer step, counted as a ring of N ranks sends them:
/// reduce_scatter and all_gather (N-1)/N of the whole, all_reduce twice that. Rows are exchanged in
/// equal blocks, so the last ones may be padded.
struct TrafficEstimate {
  std::int64_t gradients = 0;  ///< reduce_scatter of matrices, in parallel.gradient_dtype
  std::int64_t bits = 0;       ///< all_gather of packed signs
  std::int64_t values = 0;     ///< all_gather of full-precision matrices (embedding, head), fp32
  std::int64_t scales = 0;     ///< all_reduce of the gradients of norms, alpha and beta, fp32
  std::int64_t teacher = 0;    ///< all_gather of a sharded teacher's layers, every micro-step
  std::int64_t control = 0;    ///< losses, norms, flags, counts of flips
  /// What sharded training without packed signs would gather: bf16 weights for forward and for
  /// backward, in every micro-step.
  std::int64_t bf16_gathers_of_linears = 0;  ///< of binarized layers alone
  std::int64_t bf16_gathers = 0;             ///< with embedding and head
  std::int64_t total() const { return gradients + bits + values + scales + teacher + control; }
};

/// Floating-point operations for one token of training. A multiply-add counts two; N are the
/// weights of matrix products (linear layers and head, not the embedding, which is a lookup).
/// Student 6N; teacher 2N; recompute 2N without the head; causal attention of S positions in
/// addition 2·S·(width of all query heads) per layer forward, twice that backward.
struct TokenFlops {
  double student = 0;      ///< forward and backward
  double student_fp8 = 0;  ///< those of `student` that train.sign_products=fp8 does in 8 bits
  double recompute = 0;    ///< 0 without train.recompute
  double teacher = 0;      ///< 0 without distillation
  double teacher_fp8 = 0;  ///< those of `teacher` that teacher.dtype=fp8 does in 8 bits
  double total() const { return student + recompute + teacher; }
  double without_recompute() const { return student + teacher; }  ///< what MFU counts
};
/// Of a resolved configuration; `teacher` is null without distillation.
TokenFlops token_flops(const config::RunConfig& config, const config::ModelConfig* teacher);

struct Estimate {
  int world_size = 1;
  std::int64_t micro_steps = 0;      ///< per optimizer step
  std::int64_t tokens_per_step = 0;  ///< all ranks
  std::int64_t steps = 0;
  MemoryEstimate memory;
  TrafficEstimate traffic;
  TokenFlops flops;
  std::int64_t checkpoint_bytes = 0;  ///< all ranks together
  std::int64_t kept_checkpoints = 0;  ///< at most, of a run that nobody stops
  std::int64_t disk_bytes = 0;        ///< of these, and of one being written
  /// Of so many; the largest number there is where that does not suffice.
  std::int64_t bytes_of_checkpoints(std::int64_t count) const;
  double tokens() const {
    return static_cast<double>(tokens_per_step) * static_cast<double>(steps);
  }
};

/// Where a rank computes. On the CPU attention runs in fp32 inside, and fp16 teachers are
/// multiplied in fp32.
enum class Processor { kCpu, kGpu };
/// A machine on which a run is planned need have no GPU: device "auto" means one.
Processor planned_processor(const config::RunConfig& config);

/// The teacher as distill::load_teacher keeps it.
struct TeacherPlan {
  config::ModelConfig model;       ///< resolved
  std::int64_t value_bytes = 2;    ///< of a weight
  std::int64_t compute_bytes = 2;  ///< of an activation in matrix products
  bool fp8 = false;                ///< decoder matrices and their inputs take one byte
};
/// `stored` is the type of its files.
TeacherPlan plan_teacher(const config::ModelConfig& model, const config::TeacherConfig& teacher,
                         at::ScalarType stored, Processor processor);

/// `config` is resolved; `teacher` is needed when objective.distill > 0. UsageError when the batch
/// does not divide or the teacher is missing.
Estimate estimate(const config::RunConfig& config, const std::optional<TeacherPlan>& teacher,
                  int world_size, Processor processor);

/// A configuration with other settings that change memory but not the result, and how they are
/// written on the command line.
struct FittingSettings {
  std::vector<std::string> changes;  ///< "train.recompute=true", …
  Estimate estimate;
};
/// Every way to need at most `budget_bytes` per rank with the fewest changes among train.recompute,
/// train.working_copy, train.micro_batch, teacher.micro_batch, parallel.gradient_dtype,
/// parallel.shard_gradients and parallel.shard_teacher, each with the largest micro-batch that
/// fits; no change when the configuration fits as it is; empty when nothing helps enough.
std::vector<FittingSettings> find_fitting_settings(const config::RunConfig& config,
                                                   const std::optional<TeacherPlan>& teacher,
                                                   int world_size, Processor processor,
                                                   std::int64_t budget_bytes);

/// The teacher that objective.distill > 0 needs, from the folder that teacher.path names; nullopt
/// without distillation. Throws what distill::check_teacher throws; no weights are read.
std::optional<TeacherPlan> stored_teacher(const config::RunConfig& config, int world_size,
                                          Processor processor);
/// The same of a teacher whose architecture alone is known, with files in fp16.
TeacherPlan described_teacher(const config::RunConfig& config, const config::ModelConfig& teacher,
                              int world_size, Processor processor);

/// Sections of a report for people: a name in the first column, lines that end with a newline.
std::string model_report(const config::ModelConfig& model);
std::string teacher_report(const std::optional<TeacherPlan>& teacher, const std::string& source);
std::string run_report(const config::RunConfig& config, const Estimate& estimate);
std::string memory_report(const Estimate& estimate);
std::string traffic_report(const Estimate& estimate);
std::string flops_report(const Estimate& estimate);
std::string disk_report(const Estimate& estimate);

}  // namespace fbi::estimate
