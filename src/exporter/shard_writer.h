#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fbi/formats/safetensors.h"

namespace fbi::exporter {

/// Streams a model into `model.safetensors`, or, above max_shard_bytes, into numbered files with an
/// index: one tensor in memory at a time. `layout` gives name, dtype and shape in the order in
/// which `write` then receives the tensors.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path directory, std::vector<formats::TensorView> layout,
              std::uint64_t max_shard_bytes);
  void write(std::span<const std::byte> tensor);
  /// Commits the last file and writes the index.
  void finish();
  std::uint64_t tensor_bytes() const { return tensor_bytes_; }

 private:
  std::string file_name(std::size_t shard) const;
  void open_next();

  std::filesystem::path directory_;
  std::vector<formats::TensorView> layout_;
  std::vector<std::size_t> shard_ends_;  // position in layout_ after each file's last tensor
  std::uint64_t tensor_bytes_ = 0;
  std::unique_ptr<formats::SafetensorsWriter> writer_;
  std::size_t shard_ = 0;     // files begun
  std::size_t position_ = 0;  // tensors written
};

}  // namespace fbi::exporter
