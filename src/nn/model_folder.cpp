#include "fbi/nn/model_folder.h"

#include <utility>

#include <nlohmann/json.hpp>

#include "fbi/config/huggingface.h"
#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/formats/checksums.h"
#include "fbi/formats/safetensors.h"
#include "fbi/text/tokenizer.h"

namespace fbi::nn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPackedKind = "packed export";

ModelFolder open_tensor_folder(const fs::path& path) {
  ModelFolder folder;
  folder.path = path;
  const fs::path config_file = path / "config.json";
  folder.config = config::model_config_from_hf_json(read_file(config_file), config_file.string());
  const formats::TensorFolder tensors(path);
  const std::string first = concat(config::layer_prefix(0), "self_attn.q_proj");
  const auto* scale = tensors.find(concat(first, config::kScale));
  const bool packed = scale && tensors.find(concat(first, config::kSignBits));
  folder.kind = packed ? kPackedKind : scale ? "native export" : "Hugging Face folder";
  folder.config.binarize =
      scale ? config::binarize_of_scale(scale->shape) : config::Binarize::kNone;
  if (folder.config.binarize != config::Binarize::kColumn &&
      (folder.config.tie_scales || !folder.config.shift))
    throw DataError(concat(
        config_file.string(),
        ": tie_scales and shift=false belong to binarize column, but the tensors are of binarize ",
        config::to_string(folder.config.binarize)));
  if (packed) formats::Checksums(path).check_model();
  folder.weights =
      packed ? formats::packed_source(path, folder.config) : formats::folder_source(path);
  formats::check_tensors(*folder.weights, folder.config, formats::Scales::kRequired);
  folder.stored_dtype = torch_dtype(tensors.at(config::kEmbedding).dtype);
  folder.tokenizer = find_tokenizer(path);
  return folder;
}

/// The first file of tensors, by name, in a folder without config.json; "" when there is none.
std::string tensor_file_in(const fs::path& folder) {
  std::string first;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool tensors = (name.starts_with("pytorch_model") && name.ends_with(".bin")) ||
                         (name.starts_with("model") && name.ends_with(".safetensors"));
    if (tensors && (first.empty() || name < first)) first = name;
  }
  return first;
}

/// Whether a path could be meant as "organisation/model".
bool is_hub_name(const fs::path& path) {
  const std::string text = path.string();
  const auto slash = text.find('/');
  std::error_code ignored;
  return slash != std::string::npos && slash > 0 && slash + 1 < text.size() &&
         text.find('/', slash + 1) == std::string::npos && text[0] != '.' &&
         !fs::exists(path, ignored) && !fs::exists(path.parent_path(), ignored);
}

}  // namespace

at::ScalarType torch_dtype(formats::DType dtype) {
  if (dtype == formats::DType::kBF16) return at::kBFloat16;
  if (dtype == formats::DType::kF16) return at::kHalf;
  return at::kFloat;
}

ModelFolder model_of_checkpoint(std::unique_ptr<formats::CheckpointReader> reader) {
  ModelFolder folder;
  folder.path = reader->path();
  folder.kind = "checkpoint";
  const std::string place = (reader->path() / "manifest.json").string();
  const auto state =
      nlohmann::json::parse(reader->manifest().state_json, nullptr, /*allow_exceptions=*/false);
  if (!state.is_object() || !state.contains("config"))
    throw CheckpointError(
        concat(place, ": state.config is missing; this is no checkpoint of a training run"));
  folder.config = config::parse_run_config(state["config"].dump(), place, folder.path).model;
  folder.tokenizer = find_tokenizer(folder.path);
  folder.weights = formats::checkpoint_source(std::move(reader));
  formats::check_tensors(*folder.weights, folder.config, formats::Scales::kRequired);
  return folder;
}

void require_latent_weights(const ModelFolder& folder) {
  if (folder.kind == kPackedKind)
    throw UsageError(concat(folder.path.string(),
                            " is a packed export, of signs alone: give the run, its checkpoint, or "
                            "a native export"));
}

ModelFolder open_model_folder(const fs::path& path) {
  if (!fs::is_directory(path))
    throw DataError(
        concat(path.string(),
               " is not a folder; expected a Hugging Face model, a checkpoint or a run directory",
               is_hub_name(path)
                   ? concat("; if it is the name of a model of the Hugging Face hub: hf download ",
                            path.string(), " --local-dir ", path.string())
                   : ""));
  if (auto checkpoint = formats::open_checkpoint_of(path))
    return model_of_checkpoint(std::move(checkpoint));
  if (!fs::exists(path / "config.json")) {
    const std::string file = tensor_file_in(path);
    const std::string what =
        file.empty()
            ? "neither config.json with safetensors, nor manifest.json, nor checkpoints/"
            : concat("there is ", file,
                     ", but config.json is missing, which tells the architecture; put the model's "
                     "own there");
    throw DataError(concat(path.string(), " holds no model: ", what));
  }
  return open_tensor_folder(path);
}

fs::path find_tokenizer(const fs::path& path) {
  fs::path found = text::find_tokenizer(path);
  if (!found.empty() || !fs::exists(path / "manifest.json")) return found;
  // Where a checkpoint is a link, both it and what it leads to may lie in a run.
  for (const fs::path& folder : {fs::absolute(path / "").parent_path(), fs::canonical(path)}) {
    found = text::find_tokenizer(folder.parent_path().parent_path());
    if (!found.empty()) break;
  }
  return found;
}

EvaluationDtype evaluation_dtype(const std::string& name, at::Device device) {
  if (name == "fp32") return {at::kFloat, at::kFloat, "fp32"};
  if (name == "bf16") return {at::kBFloat16, at::kBFloat16, "bf16"};
  if (name != "fp16")
    throw UsageError(concat("dtype '", name, "' is unknown; choose fp32, bf16 or fp16"));
  if (device.is_cuda()) return {at::kHalf, at::kHalf, "fp16"};
  return {at::kHalf, at::kFloat, "fp16 weights, fp32 arithmetic"};
}

std::unique_ptr<LlamaForCausalLM> load_for_evaluation(const ModelFolder& folder,
                                                      const EvaluationDtype& dtype,
                                                      at::Device device) {
  auto model =
      std::make_unique<LlamaForCausalLM>(folder.config, LlamaOptions{device, dtype.compute});
  const auto report = load_weights(*model, *folder.weights);
  if (report.zero_signs)
    log::warn(folder.path.string(), ": ", report.zero_signs,
              " latent weights are exactly 0; their sign is taken as +1");
  if (dtype.weights != at::kFloat) model->round_weights(dtype.weights);
  model->set_dtype_description(dtype.description);
  return model;
}

}  // namespace fbi::nn
