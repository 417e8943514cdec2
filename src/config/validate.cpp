#include "config/validate.h"

#include <algorithm>
#include <initializer_list>

#include "config/architecture.h"
#include "config/fields.h"
#include "config/values.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"

namespace fbi::config {
namespace {

constexpr double kMaxTokens = 4e18;  // counts of tokens stay below 2^62

/// Rules between fields; each runs only when the fields it reads are sound.
class Rules {
 public:
  Rules(const RunConfig& config, std::int64_t world_size, Problems& problems)
      : config_(config), world_size_(world_size), problems_(problems) {}

  void check() {
    check_objective();
    check_teacher();
    check_backend();
    check_data_weights();
    check_batch();
    check_length();
    check_schedule();
  }

 private:
  bool sound(std::initializer_list<const char*> keys) const {
    return std::none_of(keys.begin(), keys.end(),
                        [&](const char* key) { return problems_.touches(key); });
  }

  void check_objective() {
    const ObjectiveConfig& objective = config_.objective;
    if (sound({"objective.next_token", "objective.distill"}) && objective.next_token == 0 &&
        objective.distill == 0) {
      problems_.add("objective", "",
                    "next_token and distill are both 0: there is nothing to learn");
    }
  }

  void check_teacher() {
    const ObjectiveConfig& objective = config_.objective;
    if (sound({"objective.distill", "teacher.path"}) && objective.distill > 0 &&
        config_.teacher.path.empty()) {
      problems_.add(
          "teacher.path", "\"\"",
          concat("expected a model folder, because objective.distill is ", objective.distill));
    }
    if (config_.teacher.dtype == "fp8" && config_.parallel.shard_teacher) {
      problems_.add("parallel.shard_teacher", "true",
                    "expected false, because teacher.dtype is fp8: such a teacher stays whole");
    }
  }

  void check_backend() {
    const std::string &backend = config_.parallel.backend, &device = config_.train.device;
    if (world_size_ > 1 &&
        ((backend == "gloo" && device == "cuda") || (backend == "nccl" && device == "cpu"))) {
      problems_.add("parallel.backend", backend,
                    concat("expected auto, because train.device is ", device,
                           ": gloo is for ranks on CPUs, nccl for ranks on GPUs"));
    }
  }

  void check_data_weights() {
    const DataConfig& data = config_.data;
    if (sound({"data.paths", "data.weights"}) && !data.weights.empty() &&
        data.weights.size() != data.paths.size()) {
      problems_.add("data.weights", show(data.weights),
                    concat("expected as many numbers as data.paths has entries (",
                           data.paths.size(), "), or none"));
    }
  }

  void check_batch() {
    const TrainConfig& train = config_.train;
    if (world_size_ < 1) {
      problems_.add("world size", std::to_string(world_size_), "expected at least one rank");
    } else if (sound({"train.global_batch", "train.micro_batch"}) &&
               train.global_batch % (train.micro_batch * world_size_) != 0) {
      problems_.add(
          "train.global_batch", std::to_string(train.global_batch),
          concat("expected a multiple of ", train.micro_batch * world_size_, " (micro_batch ",
                 train.micro_batch, " x ", world_size_, world_size_ == 1 ? " rank)" : " ranks)"));
    }
    const std::int64_t own = config_.teacher.micro_batch;
    if (sound({"teacher.micro_batch", "train.micro_batch"}) && own > 0 &&
        train.micro_batch % own != 0) {
      problems_.add("teacher.micro_batch", std::to_string(own),
                    concat("expected a divisor of train.micro_batch (", train.micro_batch,
                           "), or 0 for all of it"));
    }
  }

  void check_length() {
    const TrainConfig& train = config_.train;
    if (sound({"train.seq_len", "model.max_position_embeddings"}) &&
        train.seq_len > config_.model.max_position_embeddings) {
      problems_.add("train.seq_len", std::to_string(train.seq_len),
                    concat("expected at most model.max_position_embeddings (",
                           config_.model.max_position_embeddings, ")"));
    }
    const double tokens = static_cast<double>(train.steps) *
                          static_cast<double>(train.global_batch) *
                          static_cast<double>(train.seq_len);
    if (sound({"train.steps", "train.global_batch", "train.seq_len"}) && tokens > kMaxTokens) {
      problems_.add("train.steps", std::to_string(train.steps),
                    "times global_batch times seq_len is more tokens than can be counted");
    }
  }

  void check_schedule() {
    const OptimizerConfig& optimizer = config_.optimizer;
    check_decay_is_for_wsd();
    const bool own = optimizer.total_steps > 0;
    const std::int64_t total = own ? optimizer.total_steps : config_.train.steps;
    const std::int64_t warmup = optimizer.warmup_steps;
    if (!sound(
            {"optimizer.warmup_steps", "optimizer.total_steps", own ? "optimizer" : "train.steps"}))
      return;
    const std::string length =
        concat(own ? "optimizer.total_steps" : "train.steps", " (", total, ")");
    if (warmup > total) {
      problems_.add("optimizer.warmup_steps", std::to_string(warmup),
                    concat("expected at most ", length, ", the length of the schedule"));
    } else if (sound({"optimizer.decay_steps"}) && optimizer.decay_steps > total - warmup) {
      problems_.add("optimizer.decay_steps", std::to_string(optimizer.decay_steps),
                    concat("expected at most ", total - warmup, ", what optimizer.warmup_steps (",
                           warmup, ") leaves of ", length));
    }
  }

  void check_decay_is_for_wsd() {
    const OptimizerConfig& optimizer = config_.optimizer;
    if (!sound({"optimizer.schedule", "optimizer.decay_steps"})) return;
    const bool wsd = optimizer.schedule == ScheduleKind::kWsd;
    if (wsd == (optimizer.decay_steps > 0)) return;
    problems_.add("optimizer.decay_steps", std::to_string(optimizer.decay_steps),
                  concat("expected ", wsd ? "at least 1" : "0", ", because optimizer.schedule is ",
                         to_string(optimizer.schedule),
                         wsd ? "" : "; optimizer.schedule=wsd has a decay of its own length"));
  }

  const RunConfig& config_;
  std::int64_t world_size_;
  Problems& problems_;
};

}  // namespace

void check_config(const RunConfig& config, std::int64_t world_size, Problems& problems) {
  RunConfig copy = config;  // fields point into what may be written
  for (const Field& field : fields_of(copy)) check_range(field, problems);
  check_model(config.model, "model.", problems);
  Rules(config, world_size, problems).check();
}

void validate(const RunConfig& config, std::int64_t world_size) {
  Problems problems;
  check_config(config, world_size, problems);
  if (!problems.empty()) throw UsageError(problems.report("configuration"));
}

std::int64_t micro_steps_per_step(const TrainConfig& train, std::int64_t world_size) {
  const std::int64_t samples = train.micro_batch * world_size;
  if (samples < 1 || train.global_batch % samples != 0) {
    throw UsageError(concat("train.global_batch = ", train.global_batch,
                            ": expected a multiple of ", samples, " (micro_batch ",
                            train.micro_batch, " x world size ", world_size, ")"));
  }
  return train.global_batch / samples;
}

void resolve(ModelConfig& model) {
  if (model.num_key_value_heads == 0) model.num_key_value_heads = model.num_attention_heads;
  if (model.head_dim == 0) model.head_dim = model.hidden_size / model.num_attention_heads;
}

void resolve(RunConfig& config, std::int64_t world_size, const RunConfig* continued) {
  resolve(config.model);
  OptimizerConfig& optimizer = config.optimizer;
  if (optimizer.total_steps == 0) optimizer.total_steps = config.train.steps;
  if (optimizer.schedule_micro_steps == 0 && continued) {
    optimizer.schedule_micro_steps = continued->optimizer.schedule_micro_steps;
  }
  if (optimizer.schedule_micro_steps == 0) {
    optimizer.schedule_micro_steps = micro_steps_per_step(config.train, world_size);
  }
}

}  // namespace fbi::config
