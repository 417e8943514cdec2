#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/ops/parameter_slot.h"

/// Recordings of the published training loop, read from a folder, and what a replay of one has to
/// observe. B batch, S sequence, V vocabulary, A micro-steps per optimizer step, M micro-steps of
/// the recording.
namespace fbi::parity {

/// Tensors by published name ("model.layers.0.mlp.up_proj.wscale"), fp32 unless said otherwise.
using NamedTensors = std::map<std::string, at::Tensor>;

/// Loss of one micro-batch and its parts (natural logarithm); a part is absent where it was not
/// computed.
struct LossTerms {
  double loss = 0;
  std::optional<double> next_token, distill;
};

/// One optimizer step.
struct StepValues {
  double lr = 0;
  double grad_norm = 0;  ///< of the accumulated gradient, before clipping
  double grad_norm_after_clip = 0;
  /// Changes of W > 0, in the order of Trace::binarized_modules.
  std::vector<std::int64_t> flips;
};

struct TraceOptimizer {
  double lr = 0, end_lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, clip_norm = 0;
  std::int64_t warmup_micro_steps = 0, total_micro_steps = 0;
};

/// One recording: what went in, and what the published implementation made of it.
struct Trace {
  std::filesystem::path directory;
  std::string name;
  config::Precision precision = config::Precision::kFp32;
  ops::ScalePattern pattern = ops::ScalePattern::kColumn;
  /// loss = next_token_weight * AR + distill_weight * KD
  double next_token_weight = 0, distill_weight = 0;
  config::ModelConfig student;                 ///< key/value heads and head_dim resolved
  std::optional<config::ModelConfig> teacher;  ///< binarize none
  std::int64_t batch = 0, seq = 0, micro_steps = 0, accumulate = 1;
  std::vector<std::string> binarized_modules;
  /// The initial scales follow from the initial latent weights (init "scratch").
  bool scales_from_weights = true;
  /// Absent: forward and gradient of one micro-batch only.
  std::optional<TraceOptimizer> optimizer;
  at::Tensor tokens;  ///< int64 [M, B, S+1]
  NamedTensors student_init, teacher_init;

  LossTerms first_losses;        ///< both parts where recorded, also those outside the loss
  at::Tensor student_logits;     ///< [B, S, V] of the first micro-batch
  at::Tensor teacher_logits;     ///< undefined without a teacher
  NamedTensors first_gradients;  ///< of loss / A after the first backward, before clipping
  NamedTensors effective;        ///< matrices used in the first forward pass, of some modules
  std::vector<LossTerms> micro_losses;  ///< M entries, none in a forward-only recording
  std::vector<StepValues> steps;
  NamedTensors final_parameters;  ///< after the last step; empty in a forward-only recording
};

/// Reads and checks a recording. Throws DataError naming file and field or tensor.
Trace load_trace(const std::filesystem::path& directory);

/// Exact zeros (of either sign) among the initial latent weights; the packed form cannot represent
/// them.
std::int64_t count_zero_latents(const Trace& trace);

/// What a replay observed; filled by each form of the student, judged by compare.h. Everything the
/// recording has must be there (loss terms: those the objective uses); names, shapes and order are
/// those of Trace.
struct ReplayResult {
  /// "….wscale", "….wbias" as our initialisation forms them from the latent weights.
  NamedTensors initial_scales;
  at::Tensor student_logits;      ///< [B, S, V] of the first micro-batch, fp32
  at::Tensor teacher_logits;      ///< undefined without a teacher
  NamedTensors first_gradients;   ///< of loss / A, latent, scale and shift gradients included
  NamedTensors effective;         ///< at least the modules in Trace::effective
  std::vector<LossTerms> losses;  ///< per micro-step; one entry for a forward-only recording
  std::vector<StepValues> steps;
  NamedTensors final_parameters;
};

}  // namespace fbi::parity
