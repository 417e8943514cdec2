#pragma once

namespace fbi::formats {

/// Names of the files that hold the tensors of a model folder.
inline constexpr const char* kSafetensorsFile = "model.safetensors";
inline constexpr const char* kSafetensorsIndex = "model.safetensors.index.json";
inline constexpr const char* kTorchFile = "pytorch_model.bin";
inline constexpr const char* kTorchIndex = "pytorch_model.bin.index.json";

}  // namespace fbi::formats
