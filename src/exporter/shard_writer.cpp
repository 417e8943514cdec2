#include "exporter/shard_writer.h"

#include <cstdio>
#include <utility>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::exporter {
namespace {

std::uint64_t bytes_of(const formats::TensorView& tensor) {
  return static_cast<std::uint64_t>(tensor.numel() * formats::size_of(tensor.dtype));
}

}  // namespace

ShardWriter::ShardWriter(std::filesystem::path directory, std::vector<formats::TensorView> layout,
                         std::uint64_t max_shard_bytes)
    : directory_(std::move(directory)), layout_(std::move(layout)) {
  std::uint64_t shard_bytes = 0;
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const std::uint64_t bytes = bytes_of(layout_[i]);
    // A tensor larger than a whole file gets one of its own.
    if (shard_bytes > 0 && shard_bytes + bytes > max_shard_bytes) {
      shard_ends_.push_back(i);
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    tensor_bytes_ += bytes;
  }
  shard_ends_.push_back(layout_.size());
}

void ShardWriter::write(std::span<const std::byte> tensor) {
  if (position_ >= layout_.size()) throw UsageError("more tensors written than laid out");
  if (bytes_of(layout_[position_]) != tensor.size()) {
    throw UsageError(concat("tensor ", layout_[position_].name, ": expected ",
                            bytes_of(layout_[position_]), " bytes, found ", tensor.size()));
  }
  if (!writer_ || position_ == shard_ends_[shard_ - 1]) open_next();
  writer_->write(tensor);
  ++position_;
}

void ShardWriter::finish() {
  if (writer_) writer_->finish();
  if (shard_ends_.size() == 1) return;
  nlohmann::ordered_json weight_map;
  for (std::size_t i = 0, shard = 0; i < layout_.size(); ++i) {
    if (i == shard_ends_[shard]) ++shard;
    weight_map[layout_[i].name] = file_name(shard);
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", tensor_bytes_}}},
                                        {"weight_map", weight_map}};
  write_file(directory_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

std::string ShardWriter::file_name(std::size_t shard) const {
  if (shard_ends_.size() == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1,
                shard_ends_.size());
  return name;
}

void ShardWriter::open_next() {
  if (writer_) writer_->finish();
  const std::size_t begin = shard_ == 0 ? 0 : shard_ends_[shard_ - 1];
  const auto layout = std::span(layout_).subspan(begin, shard_ends_[shard_] - begin);
  writer_ = std::make_unique<formats::SafetensorsWriter>(directory_ / file_name(shard_), layout);
  ++shard_;
}

}  // namespace fbi::exporter
