#include "config/fields.h"

#include <array>
#include <type_traits>

namespace fbi::config {
namespace {

// Bounds far above anything sensible: they keep products of sizes inside 64 bits, whatever a file
// says.
constexpr double kMaxVocab = 1 << 24;
constexpr double kMaxHidden = 1 << 17;
constexpr double kMaxIntermediate = 1 << 20;
constexpr double kMaxLayers = 1 << 12;
constexpr double kMaxHeads = 1 << 12;
constexpr double kMaxHeadDim = 1 << 12;
constexpr double kMaxPositions = 1 << 30;
constexpr double kMaxBatch = 1 << 20;
constexpr double kMaxSeqLen = 1 << 20;
constexpr double kMaxSteps = 1 << 30;
constexpr double kMaxMicroSteps = 1 << 20;
constexpr double kMaxChunkTokens = 1 << 30;
constexpr double kMaxThreads = 1 << 12;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr Range kAny{};
constexpr Range kNotNegative{0, kInfinity, false, true};
constexpr Range kPositive{0, kInfinity, true, true};
constexpr Range kWeight{0, 1e18, true};  // as large as counts of tokens, whose sum stays finite
constexpr Range kBelowOne{0, 1, false, true};
constexpr Range kStepsOrNever{0, kMaxSteps};

class FieldList {
 public:
  /// Following fields get this prefix and role.
  void begin(std::string prefix, Role role) {
    prefix_ = std::move(prefix);
    role_ = role;
  }

  Field& add(std::string_view key, Member member, Range range, std::string_view help) {
    Field field{.key = prefix_ + std::string(key),
                .member = member,
                .help = std::string(help),
                .range = range,
                .choices = {},
                .role = role_,
                .required = false};
    std::visit([&](auto pointer) { add_choices(field, pointer); }, member);
    fields_.push_back(std::move(field));
    return fields_.back();
  }

  const std::string& prefix() const { return prefix_; }
  std::vector<Field> take() { return std::move(fields_); }

 private:
  template <class Pointer>
  static void add_choices(Field& field, Pointer) {
    if constexpr (std::is_pointer_v<Pointer>) {
      using Value = std::remove_pointer_t<Pointer>;
      if constexpr (std::is_enum_v<Value>) {
        for (const std::string_view name : spellings(Value{})) field.choices.emplace_back(name);
      }
    }
  }

  std::vector<Field> fields_;
  std::string prefix_;
  Role role_ = Role::kIdentity;
};

void list(FieldList& f, RopeScaling& c) {
  f.add("rope_type", &c.type, kAny, "How rotary frequencies are scaled (`type` is read too).")
      .choices = {"default", "linear", "llama3"};
  f.add("factor", &c.factor, kPositive, "linear, llama3: how much longer the context becomes.");
  f.add("low_freq_factor", &c.low_freq_factor, kPositive, "llama3 only.");
  f.add("high_freq_factor", &c.high_freq_factor, kPositive, "llama3 only.");
  f.add("original_max_position_embeddings", &c.original_max_position_embeddings, {0, kMaxPositions},
        "llama3 only, where it is required: context length before scaling.");
}

void list(FieldList& f, ModelConfig& c) {
  const std::string prefix = f.prefix();
  f.add("architecture", {}, kAny,
        "File with Hugging Face `config.json` keys, relative to the configuration; the other keys "
        "here go before it. `\"model\": \"FILE\"` is short for this key alone. Not kept: "
        "config.json of a run holds the keys that were read.");
  f.add("vocab_size", &c.vocab_size, {1, kMaxVocab}, "Number of token ids.");
  f.add("hidden_size", &c.hidden_size, {1, kMaxHidden}, "Width of the residual stream.");
  f.add("intermediate_size", &c.intermediate_size, {1, kMaxIntermediate},
        "Width of the feed-forward part.");
  f.add("num_hidden_layers", &c.num_hidden_layers, {1, kMaxLayers}, "Decoder layers.");
  f.add("num_attention_heads", &c.num_attention_heads, {1, kMaxHeads}, "Query heads per layer.");
  f.add("num_key_value_heads", &c.num_key_value_heads, {0, kMaxHeads},
        "Key and value heads (grouped-query attention); 0: as many as query heads.");
  f.add("head_dim", &c.head_dim, {0, kMaxHeadDim},
        "Size of a head, an even number; 0: hidden_size / num_attention_heads.");
  f.add("max_position_embeddings", &c.max_position_embeddings, {1, kMaxPositions},
        "Longest sequence the model is made for.");
  f.add("rms_norm_eps", &c.rms_norm_eps, {0, 1, true, true}, "Epsilon of RMSNorm.");
  f.add("rope_theta", &c.rope_theta, kPositive, "Base of the rotary embedding.");
  f.begin(prefix + "rope_scaling.", Role::kIdentity);
  list(f, c.rope_scaling);
  f.begin(prefix, Role::kIdentity);
  f.add("initializer_range", &c.initializer_range, kNotNegative,
        "Standard deviation of initial weights.");
  f.add("tie_word_embeddings", &c.tie_word_embeddings, kAny,
        "Whether the head shares the embedding's weights.");
  f.add("pad_token_id", &c.pad_token_id, {0, kMaxVocab},
        "Token whose embedding starts at zero and gets no gradient; null: none.");
  f.add("bos_token_id", &c.bos_token_id, {0, kMaxVocab}, "Token that begins a document.");
  f.add("eos_token_id", &c.eos_token_id, {0, kMaxVocab},
        "Token, or list of tokens, that end a document.");
  f.add("binarize", &c.binarize, kAny,
        "Binarized linear layers with one scale and shift per input column, per output row, or for "
        "the whole matrix; none: a dense model.");
  f.add("tie_scales", &c.tie_scales, kAny,
        "Query, key and value layers share one scale per input, and so do gate and up: the scales "
        "fold into the norms before them. Only with binarize column.");
  f.add("shift", &c.shift, kAny,
        "Whether binarized layers learn a shift; false: weights are + or - the scale. Only with "
        "binarize column.");
}

void list(FieldList& f, TeacherConfig& c) {
  f.begin("teacher.", Role::kIdentity);
  f.add(
      "path", &c.path, kAny,
      "Hugging Face folder, native export, or a run or checkpoint folder of fbi-llm. Required when "
      "objective.distill > 0.");
  f.add("dtype", &c.dtype, kAny,
        "Arithmetic of the teacher; empty: as its weights are stored; fp8: matrices of its decoder "
        "and their inputs in 8 bits, all else in bf16, on GPUs from compute capability 8.9 on (a "
        "CPU does it slowly, to try it). The run's log says how far that moves its distributions.")
      .choices = {"", "fp32", "bf16", "fp16", "fp8"};
  f.add("micro_batch", &c.micro_batch, {0, kMaxBatch},
        "Samples that the teacher takes at once, a divisor of train.micro_batch; 0: all of a "
        "micro-step. Fewer need less memory for its activations.")
      .role = Role::kFree;
}

void list(FieldList& f, DataConfig& c) {
  f.begin("data.", Role::kIdentity);
  f.add("format", &c.format, kAny,
        "shards: files written by `fbi-llm prepare`; amber: JSON lines `{\"token_ids\": [...]}`.");
  f.add("paths", &c.paths, kAny,
        "Files or folders with training data, in the order of reading; a folder gives its files by "
        "name.")
      .required = true;
  f.add(
       "weights", &c.weights, kWeight,
       "A number for each entry of `data.paths`: its share of the samples is the number divided by "
       "the sum of all, and each entry is read in an order of its own; empty: all entries are one "
       "set, read one after the other.")
      .added_later = true;
  f.add("skip_files", &c.skip_files, {0, kInfinity},
        "Positions in the list of files, counted from 0, that are left out.");
  f.add("seed", &c.seed, kAny, "Seed of the order of samples.");
  f.add("index_dir", &c.index_dir, kAny,
        "Folder for line indexes of amber files; empty: beside the data.")
      .role = Role::kFree;
}

void list(FieldList& f, ObjectiveConfig& c) {
  f.begin("objective.", Role::kIdentity);
  f.add("next_token", &c.next_token, kNotNegative, "Weight of the next-token cross entropy.");
  f.add("distill", &c.distill, kNotNegative,
        "Weight of the distillation loss: the cross entropy of the student's distribution against "
        "the teacher's, times temperature squared.");
  f.add("temperature", &c.temperature, kPositive, "Temperature of both distributions.");
}

void list(FieldList& f, OptimizerGroups& c) {
  constexpr std::string_view kPrefix = "optimizer.groups.";
  const std::array<std::pair<std::string_view, GroupMultipliers*>, 4> groups = {
      {{"latent", &c.latent}, {"scale", &c.scale}, {"norm", &c.norm}, {"embedding", &c.embedding}}};
  const std::array<std::string_view, 4> members = {"weights of linear layers in the decoder",
                                                   "alpha and beta of binarized layers",
                                                   "RMSNorm weights", "embedding and head"};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    f.begin(std::string(kPrefix) + std::string(groups[i].first) + ".", Role::kIdentity);
    f.add("lr", &groups[i].second->lr, kNotNegative,
          "Factor on the learning rate of " + std::string(members[i]) + ".");
    f.add("weight_decay", &groups[i].second->weight_decay, kNotNegative,
          "Factor on the weight decay of " + std::string(members[i]) + ".");
  }
}

void list(FieldList& f, OptimizerConfig& c) {
  f.begin("optimizer.", Role::kIdentity);
  f.add("lr", &c.lr, kNotNegative, "Highest learning rate, reached after the warm-up.");
  f.add("end_lr", &c.end_lr, kNotNegative,
        "Learning rate at the end of the schedule and after it; constant never takes it.");
  f.add("beta1", &c.beta1, kBelowOne, "Decay of AdamW's first moment.");
  f.add("beta2", &c.beta2, kBelowOne, "Decay of AdamW's second moment.");
  f.add("eps", &c.eps, {1e-37, kInfinity}, "AdamW's epsilon.");
  f.add("weight_decay", &c.weight_decay, kNotNegative, "AdamW's decoupled weight decay.");
  f.add("clip_norm", &c.clip_norm, kNotNegative,
        "Global norm to which gradients are clipped; 0: no clipping.");
  f.add("schedule", &c.schedule, kAny,
        "How the rate falls after the warm-up: cosine, as published, or linear, both from its end "
        "to total_steps; constant: never; wsd: constant, then linear in the last decay_steps, so "
        "that the run can go on, or end, from any checkpoint before them.")
      .added_later = true;
  f.add("warmup_steps", &c.warmup_steps, kStepsOrNever, "Steps of linear warm-up.");
  f.add(
      "total_steps", &c.total_steps, kStepsOrNever,
      "Step at which the schedule ends; 0: train.steps. Set it to be able to continue a run beyond "
      "train.steps.");
  f.add("decay_steps", &c.decay_steps, kStepsOrNever,
        "Steps before total_steps in which the rate falls to end_lr; for wsd, which needs it.")
      .added_later = true;
  f.add("schedule_micro_steps", &c.schedule_micro_steps, {0, kMaxMicroSteps},
        "Micro-steps per step, A, in the published rule lr(k) = f((k+1)A - 1); 0: the run's own "
        "number at its start, kept when it is continued.");
  list(f, c.groups);
}

void list(FieldList& f, TrainConfig& c) {
  f.begin("train.", Role::kIdentity);
  f.add("seq_len", &c.seq_len, {1, kMaxSeqLen}, "Tokens predicted per sample.");
  f.add("global_batch", &c.global_batch, {1, kMaxBatch},
        "Samples per optimizer step, over all ranks.");
  f.add("micro_batch", &c.micro_batch, {1, kMaxBatch},
        "Samples per micro-step and rank; global_batch = micro_batch x ranks x micro-steps.")
      .role = Role::kFree;
  Field& steps = f.add("steps", &c.steps, {1, kMaxSteps}, "Optimizer steps of the run.");
  steps.role = Role::kFree;
  steps.required = true;
  f.add("precision", &c.precision, kAny,
        "Matrix products in fp32, or in bf16 with fp32 latent weights, gradients and losses.");
  f.add("recompute", &c.recompute, kAny,
        "Recompute each layer's activations in the backward pass (activation checkpointing): less "
        "memory, same bits.")
      .role = Role::kFree;
  f.add("seed", &c.seed, kAny, "Seed of the initial weights.");
  f.add("init_from", &c.init_from, kAny,
        "Model folder whose weights the run starts from; empty: random weights.");
  f.add("loss_chunk_tokens", &c.loss_chunk_tokens, {1, kMaxChunkTokens},
        "Tokens whose logits exist at once. Part of the arithmetic: it groups sums.");
  f.add("max_skipped_in_row", &c.max_skipped_in_row, {1, kInfinity},
        "Steps in a row with a non-finite loss or gradient before the run stops with exit code 6.")
      .role = Role::kFree;
  Field& device = f.add("device", &c.device, kAny,
                        "Where to compute; cuda: in builds with FBI_CUDA; auto: a GPU where there "
                        "is one and such a build.");
  device.role = Role::kFree;
  device.choices = {"auto", "cpu", "cuda"};
  f.add("threads", &c.threads, {0, kMaxThreads}, "Threads on the CPU; 0: all usable processors.")
      .role = Role::kFree;
  f.add("sign_products", &c.sign_products, kAny,
        "How binarized weights are multiplied. dense: as matrices of scaled signs. tables (CPU, "
        "fp32): sums of inputs are looked up by signs. int8 (CPU): the same with inputs rounded "
        "to 8 bits. fp8: forward in 8-bit floats, backward dense, on GPUs from compute capability "
        "8.9 on with train.precision=bf16 (a CPU does it slowly, to try it). auto: tables in fp32 "
        "with AVX-512, and with AVX2 or NEON from a hidden size of 256 on, else dense. The forms "
        "round differently, so a run keeps the one that it began with.")
      .choices = {"auto", "dense", "tables", "int8", "fp8"};
  Field& copy = f.add(
      "working_copy", &c.working_copy, kAny,
      "How long binarized weights that are multiplied as dense matrices stay unpacked: layer, for "
      "one product; step, until the signs change, for 4 bytes per weight (2 in bf16), the same "
      "bits and hardly less time (docs/benchmarks.md).");
  copy.role = Role::kFree;
  copy.choices = {"layer", "step"};
}

void list(FieldList& f, ParallelConfig& c) {
  f.begin("parallel.", Role::kFree);
  f.add("backend", &c.backend, kAny,
        "How ranks talk to each other; auto: nccl between GPUs, gloo between CPUs.")
      .choices = {"auto", "gloo", "nccl"};
  f.add("gradient_dtype", &c.gradient_dtype, kAny,
        "Type of gradients on the way between ranks; they are kept and updated in fp32.");
  f.add("shard_gradients", &c.shard_gradients, kAny,
        "Sum gradients over ranks after every micro-step and keep only this rank's rows: less "
        "memory, more traffic.");
  f.add("shard_teacher", &c.shard_teacher, kAny,
        "Each rank holds a part of the teacher and gathers its layers when it uses them: less "
        "memory, more traffic.");
  f.add("timeout_seconds", &c.timeout_seconds, {0, 1e9, true},
        "How long a rank waits for one that lives but does not come before the run ends with exit "
        "code 5 (at the start 30 to 300 seconds); for one without a sign of life, 20 seconds at "
        "most.");
}

void list(FieldList& f, CheckpointConfig& c) {
  f.begin("checkpoint.", Role::kFree);
  f.add("every_steps", &c.every_steps, kStepsOrNever,
        "Steps between checkpoints; 0: never by steps.");
  f.add("every_seconds", &c.every_seconds, kNotNegative,
        "Seconds between checkpoints; 0: never by time.");
  f.add("at_end", &c.at_end, kAny,
        "A checkpoint after the last step even if none is due; false for runs that only measure.");
  f.add("keep", &c.keep, {2, kInfinity}, "Checkpoints kept; the oldest go first.");
  f.add(
      "keep_every", &c.keep_every, kStepsOrNever,
      "Checkpoints at multiples of so many steps are written whatever every_steps says, and stay: "
      "keep counts the others alone. Another value lets go of those that it does not divide; 0: "
      "none.");
}

void list(FieldList& f, EvaluationConfig& c) {
  f.begin("evaluation.", Role::kFree);
  f.add("every_steps", &c.every_steps, kStepsOrNever,
        "Steps between evaluations, the last step included; 0: never. Results go into "
        "metrics.jsonl.");
  f.add("tokens", &c.tokens, kAny,
        "Held-out files whose perplexity is measured: *.tokens of fbi-llm prepare, or JSON lines "
        "of ids.");
  f.add("tasks", &c.tasks, kAny,
        "Multiple-choice tasks, FILE or FORM=FILE as fbi-llm eval choice takes them.");
  f.add("batch", &c.batch, {1, kMaxBatch}, "Windows or choices per forward.");
  f.add("max_windows", &c.max_windows, {0, kInfinity}, "Windows of each file of tokens; 0: all.");
}

void list(FieldList& f, LogConfig& c) {
  f.begin("log.", Role::kFree);
  f.add("every_steps", &c.every_steps, {1, kMaxSteps},
        "Steps per line on the terminal and in train.log; metrics.jsonl has every step.");
}

template <class Enum, std::size_t size>
std::string_view spelling(Enum value, const std::array<std::string_view, size>& names) {
  const auto index = static_cast<std::size_t>(value);
  return index < size ? names[index] : "invalid";
}

constexpr std::array<std::string_view, 4> kBinarize = {"column", "row", "single", "none"};
constexpr std::array<std::string_view, 2> kPrecision = {"fp32", "bf16"};
constexpr std::array<std::string_view, 2> kDataFormat = {"shards", "amber"};
constexpr std::array<std::string_view, 4> kScheduleKind = {"cosine", "linear", "constant", "wsd"};

constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kSections = {{
    {"model", "Architecture of the student"},
    {"teacher", "The full-precision model to learn from"},
    {"data", "Training data"},
    {"objective", "Loss"},
    {"optimizer", "AdamW, clipping and learning-rate schedule"},
    {"train", "Batches, length, precision"},
    {"parallel", "How a run is spread over ranks"},
    {"checkpoint", "When checkpoints are written"},
    {"evaluation", "What is measured while a run goes on"},
    {"log", "What is printed"},
}};

}  // namespace

std::span<const std::string_view> spellings(Binarize) {
  return kBinarize;
}
std::span<const std::string_view> spellings(Precision) {
  return kPrecision;
}
std::span<const std::string_view> spellings(DataFormat) {
  return kDataFormat;
}
std::span<const std::string_view> spellings(ScheduleKind) {
  return kScheduleKind;
}
std::string_view to_string(Binarize value) {
  return spelling(value, kBinarize);
}
std::string_view to_string(Precision value) {
  return spelling(value, kPrecision);
}
std::string_view to_string(DataFormat value) {
  return spelling(value, kDataFormat);
}
std::string_view to_string(ScheduleKind value) {
  return spelling(value, kScheduleKind);
}

std::span<const std::pair<std::string_view, std::string_view>> sections() {
  return kSections;
}

std::vector<Field> fields_of(ModelConfig& config, const std::string& prefix) {
  FieldList f;
  f.begin(prefix, Role::kIdentity);
  list(f, config);
  return f.take();
}

std::vector<Field> fields_of(RunConfig& config) {
  FieldList f;
  f.begin("model.", Role::kIdentity);
  list(f, config.model);
  list(f, config.teacher);
  list(f, config.data);
  list(f, config.objective);
  list(f, config.optimizer);
  list(f, config.train);
  list(f, config.parallel);
  list(f, config.checkpoint);
  list(f, config.evaluation);
  list(f, config.log);
  return f.take();
}

}  // namespace fbi::config
