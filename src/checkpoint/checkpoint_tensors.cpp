#include "fbi/checkpoint/checkpoint_tensors.h"

#include <ATen/ops/empty.h>

#include "checkpoint/dtype.h"
#include "fbi/core/error.h"

namespace fbi::checkpoint {

using formats::shape_text;

CheckpointTensors::CheckpointTensors(const formats::CheckpointReader& reader)
    : folder_(reader.path().string()), tensors_(reader) {}

const std::vector<std::int64_t>& CheckpointTensors::shape(const std::string& name) const {
  return tensors_.at(name).shape;
}

at::ScalarType CheckpointTensors::dtype(const std::string& name) const {
  return from_file_dtype(tensors_.at(name).dtype);
}

at::Tensor CheckpointTensors::load(const std::string& name) const {
  at::Tensor out = at::empty(shape(name), dtype(name));
  load(name, out);
  return out;
}

void CheckpointTensors::load(const std::string& name, at::Tensor& out) const {
  const formats::ShardedTensor& tensor = tensors_.at(name);
  copy_rows(name, tensor.shape, 0, tensor.rows(), out);
}

void CheckpointTensors::load_rows(const std::string& name, std::int64_t row_begin,
                                  std::int64_t row_end, at::Tensor& out) const {
  std::vector<std::int64_t> expected = shape(name);
  if (expected.empty() || row_begin < 0 || row_begin > row_end || row_end > expected[0]) {
    throw CheckpointError(concat(folder_, ": rows ", row_begin, " to ", row_end, " of tensor \"",
                                 name, "\" ", shape_text(expected), " do not exist"));
  }
  expected[0] = row_end - row_begin;
  copy_rows(name, expected, row_begin, row_end, out);
}

void CheckpointTensors::copy_rows(const std::string& name,
                                  const std::vector<std::int64_t>& expected_shape,
                                  std::int64_t row_begin, std::int64_t row_end,
                                  at::Tensor& out) const {
  if (out.sizes() != at::IntArrayRef(expected_shape) || out.scalar_type() != dtype(name)) {
    throw CheckpointError(concat("tensor \"", name, "\": expected ",
                                 c10::toString(out.scalar_type()), " ", shape_text(out.sizes()),
                                 ", found ", c10::toString(dtype(name)), " ",
                                 shape_text(expected_shape), " in ", folder_));
  }
  const bool direct = out.device().is_cpu() && out.is_contiguous();
  at::Tensor host = direct ? out : at::empty(out.sizes(), out.options().device(at::kCPU));
  tensors_.at(name).copy_rows(row_begin, row_end,
                              {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
  if (!direct) out.copy_(host);
}

}  // namespace fbi::checkpoint
