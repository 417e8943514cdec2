#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/huggingface.h"
#include "fbi/config/tensor_names.h"
#include "fbi/formats/safetensors.h"
#include "fbi/nn/llama.h"
#include "fbi/nn/weights.h"
#include "fbi/ops/scale_strides.h"
#include "support/write_tensor_folder.h"
#include "support/write_text.h"

namespace fbi::nn {

using NamedTensors = std::map<std::string, at::Tensor>;

/// Tensors of a model with random weights under their published names; scales too if it is
/// binarized.
inline NamedTensors random_model(const config::ModelConfig& config, std::uint64_t seed) {
  LlamaForCausalLM model(config, {});
  const auto source = random_weights(config, seed);
  NamedTensors out;
  LoadReport report;
  for (auto* slot : model.slots()) out[slot->name] = load_slot(*slot, *source, report).clone();
  for (auto* slot : model.slots()) {  // a tied scale is known when all its layers are loaded
    if (slot->kind != ops::SlotKind::kPacked) continue;
    const auto shape = ops::scale_shape(*slot);
    out[config::scale_name(slot->name)] = slot->alpha.view(shape).clone();
    if (slot->learns_shift) out[config::shift_name(slot->name)] = slot->beta.view(shape).clone();
  }
  return out;
}

/// config.json and model.safetensors; tensors are stored as they are (fp32, bf16 or fp16).
inline void write_model_folder(const std::filesystem::path& folder,
                               const config::ModelConfig& config, const NamedTensors& tensors) {
  std::filesystem::create_directories(folder);
  std::vector<formats::TensorView> views;
  for (const auto& [name, tensor] : tensors) {
    const auto dtype = tensor.scalar_type() == at::kHalf       ? formats::DType::kF16
                       : tensor.scalar_type() == at::kBFloat16 ? formats::DType::kBF16
                                                               : formats::DType::kF32;
    views.push_back({name,
                     dtype,
                     tensor.sizes().vec(),
                     {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}});
  }
  test::write_text(folder / "config.json", config::model_config_to_hf_json(config, "float32"));
  test::write_tensor_folder(folder, views);
}

}  // namespace fbi::nn
