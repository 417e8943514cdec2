#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "fbi/formats/safetensors.h"

namespace fbi::test {

/// formats::TensorFolderWriter for tensors that lie in memory.
inline void write_tensor_folder(const std::filesystem::path& directory,
                                std::span<const formats::TensorView> tensors,
                                std::uint64_t max_shard_bytes = 5'000'000'000) {
  formats::TensorFolderWriter writer(directory, {tensors.begin(), tensors.end()}, max_shard_bytes);
  for (const auto& tensor : tensors) writer.write(tensor.bytes);
  writer.finish();
}

}  // namespace fbi::test
