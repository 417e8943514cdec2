#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/formats/model_source.h"
#include "fbi/formats/tensor_view.h"
#include "fbi/nn/weights.h"

namespace fbi::nn {

/// What weights that a file stores in `dtype` are in a model: F16 and BF16 as they are, all else
/// fp32.
at::ScalarType torch_dtype(formats::DType dtype);

/// A model on disk in any form that this project reads: a Hugging Face LLaMA folder (or a native
/// export), a checkpoint folder, or a run directory (its newest valid checkpoint).
struct ModelFolder {
  std::filesystem::path path;  ///< the folder that holds the tensors
  std::string kind;  ///< "Hugging Face folder" | "native export" | "packed export" | "checkpoint"
  config::ModelConfig config;                     ///< resolved
  std::unique_ptr<formats::ModelSource> weights;  ///< names and shapes are those of `config`
  at::ScalarType stored_dtype = at::kFloat;       ///< of the embedding
  std::filesystem::path tokenizer;  ///< the tokenizer that belongs to it; empty when there is none
};

/// Throws DataError (no model there, unreadable, architecture not implemented, other tensors)
/// or CheckpointError (no valid checkpoint).
ModelFolder open_model_folder(const std::filesystem::path& path);

/// For what trains the weights, or keeps them for training: UsageError for a packed export.
void require_latent_weights(const ModelFolder& folder);

/// The model of a checkpoint that is open.
ModelFolder model_of_checkpoint(std::unique_ptr<formats::CheckpointReader> reader);

/// The tokenizer file that belongs to the model in `path`, of any of those forms: beside its files,
/// or that of a checkpoint's run. Empty when there is none.
std::filesystem::path find_tokenizer(const std::filesystem::path& path);

/// How a model is evaluated. Weights are rounded to `weights` first
/// (LlamaForCausalLM::round_weights); the arithmetic is that of `compute`.
struct EvaluationDtype {
  at::ScalarType weights = at::kFloat;
  at::ScalarType compute = at::kFloat;
  std::string description;  ///< printed with every result
};
/// "fp32", "bf16" or "fp16"; on the CPU fp16 weights are multiplied in fp32. UsageError for other
/// names.
EvaluationDtype evaluation_dtype(const std::string& name, at::Device device);

/// Opens, allocates and loads a model for evaluation.
std::unique_ptr<LlamaForCausalLM> load_for_evaluation(const ModelFolder& folder,
                                                      const EvaluationDtype& dtype,
                                                      at::Device device);

}  // namespace fbi::nn
