#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/formats/checkpoint_reader.h"

namespace fbi::checkpoint {

/// The tensors of a checkpoint under their own names, put together from the parts that its ranks
/// wrote (commit.h). Nothing is converted: bits come back as they went in. All errors are
/// CheckpointErrors naming folder and tensor.
class CheckpointTensors {
 public:
  /// Checks that the parts of every tensor agree in dtype and shape and cover its rows once.
  /// `reader` must live longer.
  explicit CheckpointTensors(const formats::CheckpointReader& reader);

  std::vector<std::string> names() const;  ///< sorted
  bool contains(const std::string& name) const { return tensors_.contains(name); }
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
  struct Part {
    std::int64_t row_begin = 0, row_end = 0;
    const formats::TensorView* view = nullptr;
  };
  struct Entry {
    std::vector<std::int64_t> shape;
    std::vector<Part> parts;  ///< by row_begin
  };
  const Entry& entry_of(const std::string& name) const;
  void add(const formats::TensorView& view);
  void check(const std::string& name, Entry& entry) const;
  void require_shape(const std::string& name, const std::vector<std::int64_t>& expected,
                     const at::Tensor& out) const;
  void copy_rows(const Entry& entry, std::int64_t row_begin, std::int64_t row_end,
                 at::Tensor& out) const;

  std::string folder_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace fbi::checkpoint
