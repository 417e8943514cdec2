#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// The configuration of a run. Each struct's fields are listed once more, with help, range and
/// whether they are part of the run's identity, in src/config/fields.cpp; JSON, --set, --help and
/// docs/config.md all derive from that list.
namespace fbi::config {

enum class Binarize { kColumn, kRow, kSingle, kNone };
enum class Precision { kFp32, kBf16 };
enum class DataFormat { kShards, kAmber };
enum class ScheduleKind { kCosine, kLinear, kConstant, kWsd };

/// Spelling in configurations and logs, e.g. "column".
std::string_view to_string(Binarize value);
std::string_view to_string(Precision value);
std::string_view to_string(DataFormat value);
std::string_view to_string(ScheduleKind value);

/// Rotary embedding frequencies: plain, or scaled as transformers does for "linear" and "llama3".
struct RopeScaling {
  std::string type = "default";  ///< default | linear | llama3
  double factor = 1.0;
  double low_freq_factor = 1.0;                       ///< llama3
  double high_freq_factor = 4.0;                      ///< llama3
  std::int64_t original_max_position_embeddings = 0;  ///< llama3
  bool operator==(const RopeScaling&) const = default;
};

/// Architecture, with the keys of Hugging Face LlamaConfig; `binarize`, `tie_scales` and `shift`
/// are ours.
struct ModelConfig {
  std::int64_t vocab_size = 32000;
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 2048;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t num_key_value_heads = 0;  ///< 0: num_attention_heads (resolved on load)
  std::int64_t head_dim = 0;  ///< 0: hidden_size / num_attention_heads (resolved on load)
  std::int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  std::optional<std::int64_t> pad_token_id;
  std::int64_t bos_token_id = 1;
  std::vector<std::int64_t> eos_token_id = {2};  ///< JSON: one number or a list
  Binarize binarize = Binarize::kColumn;
  bool tie_scales = false;  ///< column: q, k and v share one alpha, and so do gate and up
  bool shift = true;        ///< false (column): binarized layers have no beta
  bool operator==(const ModelConfig&) const = default;
};

struct TeacherConfig {
  std::string path;   ///< Hugging Face folder, or a run or checkpoint folder of ours; needed when
                      ///< objective.distill > 0
  std::string dtype;  ///< "" (its own) | fp32 | bf16 | fp16 | fp8
  std::int64_t micro_batch = 0;  ///< samples it takes at once; 0: train.micro_batch
};

struct DataConfig {
  DataFormat format = DataFormat::kShards;
  std::vector<std::string> paths;  ///< files or folders, in this order
  /// Of each entry of `paths`, whose share of the samples is weight / sum; empty: they are one set.
  std::vector<double> weights;
  /// Positions in the file list that are left out (counted from 0).
  std::vector<std::int64_t> skip_files;
  std::uint64_t seed = 0;  ///< order of samples
  std::string index_dir;   ///< where line indexes of amber files go; "" = beside the data
};

/// loss = next_token * cross entropy + distill * temperature² * soft cross entropy against the
/// teacher.
struct ObjectiveConfig {
  double next_token = 0.0;
  double distill = 1.0;
  double temperature = 1.0;
};

struct GroupMultipliers {
  double lr = 1.0;
  double weight_decay = 1.0;
};

struct OptimizerGroups {
  GroupMultipliers latent, scale, norm, embedding;
};

struct OptimizerConfig {
  double lr = 3e-4;
  double end_lr = 3e-5;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  ///< 0: no clipping
  ScheduleKind schedule = ScheduleKind::kCosine;
  std::int64_t warmup_steps = 2000;
  std::int64_t total_steps = 0;  ///< length of the schedule; 0: train.steps
  std::int64_t decay_steps = 0;  ///< wsd: the last of total_steps, in which the rate falls
  /// Micro-steps per step, A, in the published rule lr(k) = f((k+1)A - 1). 0: the run's own number
  /// when it starts, which is then kept, so that a later change of world size does not move the
  /// schedule.
  std::int64_t schedule_micro_steps = 0;
  OptimizerGroups groups;
};

struct TrainConfig {
  std::int64_t seq_len = 2048;
  std::int64_t global_batch = 1024;  ///< samples per optimizer step
  std::int64_t micro_batch = 8;      ///< samples per micro-step and rank
  std::int64_t steps = 0;            ///< optimizer steps of the run
  Precision precision = Precision::kFp32;
  bool recompute = false;  ///< recompute each layer's activations in backward
  std::uint64_t seed = 0;  ///< initial weights
  std::string init_from;  ///< start from this model's weights instead of random ones (step 0, fresh
                          ///< moments)
  /// Tokens whose logits exist at once; part of the arithmetic.
  std::int64_t loss_chunk_tokens = 1024;
  std::int64_t max_skipped_in_row = 10;  ///< non-finite steps in a row before exit 6
  std::string device = "auto";           ///< auto | cpu | cuda
  std::int64_t threads = 0;              ///< 0: all processors
  std::string sign_products = "auto";    ///< auto | dense | tables | int8 | fp8
  std::string working_copy = "layer";    ///< layer | step
};

struct CheckpointConfig {
  std::int64_t every_steps = 1000;  ///< 0: never by steps
  double every_seconds = 0;         ///< 0: never by time
  bool at_end = true;           ///< after the last step even if none is due; false to measure only
  std::int64_t keep = 3;        ///< checkpoints kept, at least 2
  std::int64_t keep_every = 0;  ///< steps between checkpoints that stay besides; 0: none
};

/// Measured between steps, on the model as it trains.
struct EvaluationConfig {
  std::int64_t every_steps = 0;     ///< 0: never
  std::vector<std::string> tokens;  ///< held-out token files: perplexity
  std::vector<std::string> tasks;   ///< multiple choice, FILE or FORM=FILE
  std::int64_t batch = 4;           ///< windows or choices per forward
  std::int64_t max_windows = 0;     ///< of each token file; 0: all
};

struct LogConfig {
  /// One line on the terminal and in train.log; metrics.jsonl has every step.
  std::int64_t every_steps = 10;
};

/// How a run is spread over ranks. Nothing here changes what is computed but for the rounding of
/// sums.
struct ParallelConfig {
  std::string backend = "auto";                 ///< auto (nccl on GPUs, gloo on CPUs) | gloo | nccl
  Precision gradient_dtype = Precision::kFp32;  ///< of gradients between ranks
  /// Sum gradients over ranks after every micro-step, keep only this rank's rows.
  bool shard_gradients = false;
  /// Each rank holds a part of the teacher; layers are gathered when they are used.
  bool shard_teacher = false;
  double timeout_seconds = 600;  ///< how long a collective waits for a rank that lives
};

struct RunConfig {
  ModelConfig model;
  TeacherConfig teacher;
  DataConfig data;
  ObjectiveConfig objective;
  OptimizerConfig optimizer;
  TrainConfig train;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  EvaluationConfig evaluation;
  LogConfig log;
};

}  // namespace fbi::config
