#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/data/batcher.h"
#include "fbi/distill/fp8_teacher.h"
#include "fbi/distill/teacher.h"
#include "fbi/distributed/communicator.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/formats/model_source.h"
#include "fbi/nn/llama.h"
#include "fbi/nn/model_folder.h"
#include "fbi/optim/adamw.h"
#include "fbi/train/memory_use.h"
#include "fbi/train/trainer.h"
#include "train/inputs.h"

namespace fbi::train {

/// Everything of a run that lives in memory: data, student, teacher, optimizer and the trainer over
/// them.
class Session {
 public:
  /// `inputs`: its teacher is the same on all ranks; the rest is needed on rank 0 alone, which
  /// writes it into checkpoints.
  Session(const config::RunConfig& config, distributed::Communicator& communicator, Inputs inputs);

  /// Step 0, from what open_initial_weights gave, or from random weights.
  void start(std::unique_ptr<formats::ModelSource> weights);
  /// Continues from a checkpoint, bit for bit.
  void restore(const formats::CheckpointReader& checkpoint);
  /// Commits a checkpoint and returns its folder. Throws DiskError.
  std::filesystem::path save(const std::filesystem::path& checkpoints);

  Trainer& trainer() { return *trainer_; }
  nn::LlamaForCausalLM& student() { return *student_; }
  estimate::MemoryByKind held_memory() const {
    return train::held_memory(*optimizer_, teacher_.get());
  }
  const data::TrainingData& data() const { return *data_; }
  /// Null without distillation.
  const nn::LlamaForCausalLM* teacher() { return teacher_ ? &teacher_->model() : nullptr; }
  /// Where teacher.dtype is fp8: what that changed on the run's first micro-batch.
  const std::optional<distill::Fp8Drift>& teacher_drift() const { return teacher_drift_; }

 private:
  void open_data();
  void load_teacher();
  SampleReader sample_reader();

  config::RunConfig config_;
  Inputs inputs_;
  distributed::Communicator& communicator_;
  std::unique_ptr<data::TrainingData> data_;
  std::unique_ptr<data::Batcher> batcher_;
  std::unique_ptr<nn::LlamaForCausalLM> student_;
  std::unique_ptr<distill::Teacher> teacher_;
  std::optional<distill::Fp8Drift> teacher_drift_;
  std::unique_ptr<optim::AdamW> optimizer_;
  std::unique_ptr<Trainer> trainer_;
};

/// The weights that train.init_from names, null when it is empty. DataError or CheckpointError when
/// they do not fit model.*; no value is read for that. Collective: rank 0 chooses the checkpoint.
std::unique_ptr<formats::ModelSource> open_initial_weights(const config::RunConfig& config,
                                                           distributed::Communicator& communicator);

/// The configuration inside a checkpoint.
config::RunConfig checkpoint_config(const formats::CheckpointReader& checkpoint);

}  // namespace fbi::train
