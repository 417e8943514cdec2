#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fbi/config/load.h"
#include "fbi/core/hash.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/formats/token_shard.h"
#include "fbi/train/run.h"
#include "support/temp_dir.h"

namespace fbi::train {

inline constexpr std::int64_t kVocab = 61;
inline constexpr std::int64_t kSeqLen = 8;
inline constexpr std::int64_t kSteps = 50;

/// Model and data small enough for a step to take milliseconds: 2 layers of width 16 and 37
/// samples, so that 50 steps of 4 samples read them more than five times.
class TinyRuns {
 public:
  TinyRuns() {
    formats::TokenShardWriter writer(folder_ / "tiny.tokens", {kVocab, kSeqLen + 1, 0, ""});
    std::vector<std::int32_t> ids(kSeqLen + 1);
    std::uint32_t state = 1;
    for (int sample = 0; sample < 37; ++sample) {
      for (auto& id : ids) {
        state = state * 1664525u + 1013904223u;
        id = static_cast<std::int32_t>((state >> 16) % kVocab);
      }
      writer.add(ids);
    }
    writer.finish();
  }

  std::filesystem::path path(const std::string& name) const { return folder_ / name; }

  /// Next-token training of a binarized model in two micro-steps per step.
  config::RunConfig config() const {
    config::RunConfig c;
    c.model.vocab_size = kVocab;
    c.model.hidden_size = 16;
    c.model.intermediate_size = 20;
    c.model.num_hidden_layers = 2;
    c.model.num_attention_heads = 4;
    c.model.num_key_value_heads = 2;
    c.model.max_position_embeddings = kSeqLen;
    c.model.pad_token_id = 0;
    c.data.paths = {path("tiny.tokens").string()};
    c.data.seed = 7;
    c.objective = {1.0, 0.0, 1.0};
    c.optimizer.lr = 3e-3;
    c.optimizer.end_lr = 3e-4;
    c.optimizer.warmup_steps = 5;
    c.train.seq_len = kSeqLen;
    c.train.global_batch = 4;
    c.train.micro_batch = 2;
    c.train.steps = kSteps;
    c.train.seed = 11;
    c.train.loss_chunk_tokens = 5;  // does not divide the 16 tokens of a micro-step
    c.train.device = "cpu";
    c.train.threads = 1;
    c.checkpoint.every_steps = 0;
    c.checkpoint.keep = kSteps + 1;
    return c;
  }

  /// kd: distillation alone; mixed: both terms at temperature 2; tied: mixed, with tied scales and
  /// no shift; dense: a full-precision model.
  config::RunConfig config(const std::string& kind) {
    config::RunConfig c = config();
    if (kind == "dense") {
      c.model.binarize = config::Binarize::kNone;
      return c;
    }
    if (kind == "tied") {
      c.model.tie_scales = true;
      c.model.shift = false;
    }
    c.objective =
        kind == "kd" ? config::ObjectiveConfig{0, 1, 1} : config::ObjectiveConfig{0.5, 0.5, 2};
    c.teacher.path = teacher().string();
    return c;
  }

  /// A dense run of three steps with another seed.
  std::filesystem::path teacher() {
    const auto directory = path("teacher");
    if (std::filesystem::exists(directory)) return directory;
    config::RunConfig c = config("dense");
    c.train.steps = 3;
    c.optimizer.warmup_steps = 1;
    c.train.seed = 12;
    run(c, "teacher");
    return directory;
  }

  std::int64_t profile_steps = 0;  ///< of the runs that follow

  using OnStep = std::function<void(const StepMetrics&)>;

  RunOutcome run(config::RunConfig c, const std::string& name, const std::string& resume = "none",
                 const OnStep& on_step = {}, const std::vector<std::string>& allow_change = {}) {
    return run_rank(*distributed::make_single_rank(), std::move(c), name, resume, on_step,
                    allow_change);
  }

  /// One of several ranks.
  RunOutcome run_rank(distributed::Communicator& communicator, config::RunConfig c,
                      const std::string& name, const std::string& resume,
                      const OnStep& on_step = {},
                      const std::vector<std::string>& allow_change = {}) {
    config::resolve(c, communicator.size());
    config::validate(c, communicator.size());
    struct Observer final : RunObserver {
      explicit Observer(const OnStep& on_step) : on_step_(on_step) {}
      void on_start(const config::RunConfig&, std::int64_t) override {}
      void on_step(const StepMetrics& metrics, const Pace&) override {
        if (on_step_) on_step_(metrics);
      }
      void on_checkpoint(std::int64_t, const std::filesystem::path&) override {}
      void on_end() override {}
      const OnStep& on_step_;
    } observer(on_step);
    return run_training(c, {path(name), resume, allow_change, "test", profile_steps}, communicator,
                        observer);
  }

 private:
  test::TempDir folder_;
};

/// Lines of metrics.jsonl without what the clock says, which the last keys are.
inline std::vector<std::string> metrics_lines(const std::filesystem::path& run) {
  std::ifstream file(run / "metrics.jsonl");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);)
    lines.push_back(line.substr(0, line.find(",\"step_seconds\"")));
  return lines;
}

/// What a checkpoint holds: hash of every tensor by name, and the trainer's state.
using Fingerprint = std::map<std::string, std::string>;

inline Fingerprint checkpoint_fingerprint(const std::filesystem::path& folder) {
  const formats::CheckpointReader reader(folder);
  Fingerprint out;
  for (const auto& [name, tensor] : reader.tensors()) out[name] = hash128_hex(tensor->bytes);
  const auto state = nlohmann::json::parse(reader.manifest().state_json);
  out["state"] = state.at("train").dump();
  return out;
}

inline std::filesystem::path checkpoint_of(const std::filesystem::path& run, std::int64_t step) {
  return run / "checkpoints" / formats::checkpoint_folder_name(step);
}

/// A run directory as it was right after the checkpoint of `step`, metrics as of the end.
inline void copy_run_at(const std::filesystem::path& from, const std::filesystem::path& to,
                        std::int64_t step) {
  std::filesystem::create_directories(to / "checkpoints");
  for (const char* file : {"config.json", "environment.json", "metrics.jsonl"})
    std::filesystem::copy_file(from / file, to / file);
  std::filesystem::copy(checkpoint_of(from, step), checkpoint_of(to, step),
                        std::filesystem::copy_options::recursive);
}

inline Fingerprint end_of(const std::filesystem::path& run, std::int64_t steps = kSteps) {
  return checkpoint_fingerprint(checkpoint_of(run, steps));
}

}  // namespace fbi::train
