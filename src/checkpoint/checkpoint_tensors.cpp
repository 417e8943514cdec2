#include "fbi/checkpoint/checkpoint_tensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "checkpoint/dtype.h"
#include "checkpoint/part_name.h"
#include "fbi/core/error.h"

namespace fbi::checkpoint {
namespace {

template <class Shape>
std::string shape_text(const Shape& shape) {
  std::ostringstream out;
  const char* separator = "[";
  if (shape.empty()) out << separator;
  for (const std::int64_t size : shape) {
    out << separator << size;
    separator = ", ";
  }
  out << "]";
  return out.str();
}

std::size_t bytes_per_row(const formats::TensorView& view) {
  std::size_t bytes = static_cast<std::size_t>(formats::size_of(view.dtype));
  for (std::size_t i = 1; i < view.shape.size(); ++i)
    bytes *= static_cast<std::size_t>(view.shape[i]);
  return bytes;
}

}  // namespace

CheckpointTensors::CheckpointTensors(const formats::CheckpointReader& reader)
    : folder_(reader.path().string()) {
  for (const std::string& name : reader.names()) add(reader.at(name));
  for (auto& [name, entry] : tensors_) check(name, entry);
}

void CheckpointTensors::add(const formats::TensorView& view) {
  const auto part = parse_part_name(view.name);
  Entry& entry = tensors_[part ? part->name : view.name];
  std::vector<std::int64_t> shape = view.shape;
  Part rows{0, shape.empty() ? 1 : shape[0], &view};
  if (part) {
    if (shape.empty() || part->begin > part->end || shape[0] != part->end - part->begin) {
      throw CheckpointError(concat(folder_, ": tensor \"", view.name, "\" has the shape ",
                                   shape_text(shape), ", which is not what its name says"));
    }
    rows = {part->begin, part->end, &view};
    shape[0] = part->total;
  }
  if (entry.parts.empty()) entry.shape = shape;
  if (entry.shape != shape || (!entry.parts.empty() && entry.parts[0].view->dtype != view.dtype)) {
    throw CheckpointError(concat(folder_, ": parts \"", entry.parts[0].view->name, "\" and \"",
                                 view.name, "\" disagree in dtype or shape"));
  }
  entry.parts.push_back(rows);
}

void CheckpointTensors::check(const std::string& name, Entry& entry) const {
  std::sort(entry.parts.begin(), entry.parts.end(),
            [](const Part& a, const Part& b) { return a.row_begin < b.row_begin; });
  std::int64_t next = 0;
  for (const Part& part : entry.parts) {
    if (part.row_begin != next) {
      throw CheckpointError(concat(folder_, ": tensor \"", name, "\": expected a part from row ",
                                   next, " on, found \"", part.view->name, "\""));
    }
    next = part.row_end;
  }
  const std::int64_t rows = entry.shape.empty() ? 1 : entry.shape[0];
  if (next != rows) {
    throw CheckpointError(
        concat(folder_, ": tensor \"", name, "\": rows ", next, " to ", rows, " are missing"));
  }
}

const CheckpointTensors::Entry& CheckpointTensors::entry_of(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw CheckpointError(concat(folder_, " has no tensor \"", name, "\""));
  }
  return found->second;
}

std::vector<std::string> CheckpointTensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

const std::vector<std::int64_t>& CheckpointTensors::shape(const std::string& name) const {
  return entry_of(name).shape;
}

at::ScalarType CheckpointTensors::dtype(const std::string& name) const {
  return from_file_dtype(entry_of(name).parts[0].view->dtype);
}

at::Tensor CheckpointTensors::load(const std::string& name) const {
  at::Tensor out = at::empty(shape(name), dtype(name));
  load(name, out);
  return out;
}

void CheckpointTensors::load(const std::string& name, at::Tensor& out) const {
  const Entry& entry = entry_of(name);
  require_shape(name, entry.shape, out);
  copy_rows(entry, 0, entry.shape.empty() ? 1 : entry.shape[0], out);
}

void CheckpointTensors::load_rows(const std::string& name, std::int64_t row_begin,
                                  std::int64_t row_end, at::Tensor& out) const {
  const Entry& entry = entry_of(name);
  if (entry.shape.empty() || row_begin < 0 || row_begin > row_end || row_end > entry.shape[0]) {
    throw CheckpointError(concat(folder_, ": rows ", row_begin, " to ", row_end, " of tensor \"",
                                 name, "\" ", shape_text(entry.shape), " do not exist"));
  }
  std::vector<std::int64_t> expected = entry.shape;
  expected[0] = row_end - row_begin;
  require_shape(name, expected, out);
  copy_rows(entry, row_begin, row_end, out);
}

void CheckpointTensors::require_shape(const std::string& name,
                                      const std::vector<std::int64_t>& expected,
                                      const at::Tensor& out) const {
  if (out.sizes() == at::IntArrayRef(expected) && out.scalar_type() == dtype(name)) return;
  throw CheckpointError(concat("tensor \"", name, "\": expected ", c10::toString(out.scalar_type()),
                               " ", shape_text(out.sizes()), ", found ", c10::toString(dtype(name)),
                               " ", shape_text(expected), " in ", folder_));
}

void CheckpointTensors::copy_rows(const Entry& entry, std::int64_t row_begin, std::int64_t row_end,
                                  at::Tensor& out) const {
  const bool direct = out.device().is_cpu() && out.is_contiguous();
  at::Tensor host = direct ? out : at::empty(out.sizes(), out.options().device(at::kCPU));
  auto* target = static_cast<std::byte*>(host.mutable_data_ptr());
  for (const Part& part : entry.parts) {
    const std::int64_t begin = std::max(row_begin, part.row_begin);
    const std::int64_t end = std::min(row_end, part.row_end);
    if (begin >= end) continue;
    const std::size_t row_bytes = bytes_per_row(*part.view);
    const auto source =
        part.view->bytes.subspan(static_cast<std::size_t>(begin - part.row_begin) * row_bytes,
                                 static_cast<std::size_t>(end - begin) * row_bytes);
    if (!source.empty()) {
      std::memcpy(target + static_cast<std::size_t>(begin - row_begin) * row_bytes, source.data(),
                  source.size());
    }
  }
  if (!direct) out.copy_(host);
}

}  // namespace fbi::checkpoint
