#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/formats/sharded_tensors.h"

namespace fbi::checkpoint {

/// formats::ShardedTensors of a checkpoint as LibTorch tensors. Nothing is converted: bits come
/// back as they went in. All errors are CheckpointErrors naming folder and tensor.
class CheckpointTensors {
 public:
  /// `reader` must live longer.
  explicit CheckpointTensors(const formats::CheckpointReader& reader);

  std::vector<std::string> names() const { return tensors_.names(); }  ///< sorted
  bool contains(const std::string& name) const { return tensors_.find(name) != nullptr; }
  const std::vector<std::int64_t>& shape(const std::string& name) const;  ///< of the whole tensor
  at::ScalarType dtype(const std::string& name) const;

  /// The whole tensor, new, on the CPU.
  at::Tensor load(const std::string& name) const;
  /// The whole tensor into `out`, which has its shape and dtype; any device.
  void load(const std::string& name, at::Tensor& out) const;
  /// Rows [row_begin, row_end) into `out` [row_end - row_begin, ...], which has the tensor's dtype;
  /// any device.
  void load_rows(const std::string& name, std::int64_t row_begin, std::int64_t row_end,
                 at::Tensor& out) const;

 private:
  void copy_rows(const std::string& name, const std::vector<std::int64_t>& expected_shape,
                 std::int64_t row_begin, std::int64_t row_end, at::Tensor& out) const;

  std::string folder_;
  formats::ShardedTensors tensors_;
};

}  // namespace fbi::checkpoint
