#pragma once

#include <filesystem>
#include <span>

#include "fbi/formats/safetensors.h"

namespace fbi::test {

/// formats::SafetensorsWriter for tensors that lie in memory.
inline formats::WrittenFile write_safetensors(const std::filesystem::path& path,
                                              std::span<const formats::TensorView> tensors) {
  formats::SafetensorsWriter writer(path, tensors);
  for (const auto& tensor : tensors) writer.write(tensor.bytes);
  return writer.finish();
}

}  // namespace fbi::test
