#include "fbi/formats/sharded_tensors.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/text_distance.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

void check_cover(const std::string& folder, const std::string& name, ShardedTensor& tensor) {
  std::sort(tensor.parts.begin(), tensor.parts.end(),
            [](const ShardedTensor::Part& a, const ShardedTensor::Part& b) {
              return std::pair(a.row_begin, a.row_end) < std::pair(b.row_begin, b.row_end);
            });
  std::int64_t next = 0;
  for (const auto& part : tensor.parts) {
    if (part.row_begin != next) {
      throw CheckpointError(concat(folder, ": tensor ", printable(name),
                                   ": expected a part from row ", next, " on, found ",
                                   printable(part.view->name)));
    }
    next = part.row_end;
  }
  if (next != tensor.rows()) {
    throw CheckpointError(concat(folder, ": tensor ", printable(name), ": rows ", next, " to ",
                                 tensor.rows(), " are missing"));
  }
}

}  // namespace

std::string to_string(const PartName& part) {
  return concat(part.name, "@", part.begin, ":", part.end, "/", part.total);
}

std::optional<PartName> parse_part_name(const std::string& text) {
  const auto at = text.rfind('@');
  if (at == std::string::npos) return std::nullopt;
  PartName part{text.substr(0, at)};
  const char* next = text.data() + at + 1;
  const char* const end = text.data() + text.size();
  const auto number = [&](std::int64_t& value, char stop) {
    const auto [after, error] = std::from_chars(next, end, value);
    const bool last = stop == '\0';
    if (error != std::errc{} || value < 0 ||
        (last ? after != end : after == end || *after != stop)) {
      return false;
    }
    next = after + !last;
    return true;
  };
  if (!number(part.begin, ':') || !number(part.end, '/') || !number(part.total, '\0')) {
    return std::nullopt;
  }
  return part;
}

std::int64_t ShardedTensor::numel() const {
  return TensorView{{}, dtype, shape, {}}.numel();
}

std::uint64_t ShardedTensor::row_bytes() const {
  auto bytes = static_cast<std::uint64_t>(size_of(dtype));
  for (std::size_t i = 1; i < shape.size(); ++i) bytes *= static_cast<std::uint64_t>(shape[i]);
  return bytes;
}

void ShardedTensor::copy_rows(std::int64_t row_begin, std::int64_t row_end,
                              std::span<std::byte> out) const {
  const std::uint64_t width = row_bytes();
  if (row_begin < 0 || row_begin > row_end || row_end > rows() ||
      out.size() != static_cast<std::uint64_t>(row_end - row_begin) * width) {
    throw UsageError(concat("copy_rows: rows ", row_begin, " to ", row_end, " of ",
                            shape_text(shape), " do not fit ", out.size(), " bytes"));
  }
  for (const Part& part : parts) {
    const std::int64_t begin = std::max(row_begin, part.row_begin);
    const std::int64_t end = std::min(row_end, part.row_end);
    if (begin >= end || width == 0) continue;
    std::memcpy(
        out.data() + static_cast<std::uint64_t>(begin - row_begin) * width,
        part.view->bytes.data() + static_cast<std::uint64_t>(begin - part.row_begin) * width,
        static_cast<std::uint64_t>(end - begin) * width);
  }
}

void ShardedTensor::to_float(std::span<float> out) const {
  if (out.size() != static_cast<std::size_t>(numel())) {
    throw UsageError(concat("to_float of ", shape_text(shape), ": expected room for ", numel(),
                            " values, found ", out.size()));
  }
  for (const Part& part : parts) {
    const auto count = static_cast<std::size_t>(part.view->numel());
    formats::to_float(*part.view, out.first(count));
    out = out.subspan(count);
  }
}

std::string ShardedTensor::hash128_hex() const {
  Hasher128 hasher;
  for (const Part& part : parts) hasher.update(part.view->bytes);
  return hasher.hex();
}

ShardedTensors::ShardedTensors(const CheckpointReader& reader) : folder_(reader.path().string()) {
  for (const auto& [name, view] : reader.tensors()) add(*view);
  for (auto& [name, tensor] : tensors_) check_cover(folder_, name, tensor);
}

void ShardedTensors::add(const TensorView& view) {
  const auto part = parse_part_name(view.name);
  ShardedTensor& tensor = tensors_[part ? part->name : view.name];
  std::vector<std::int64_t> shape = view.shape;
  ShardedTensor::Part rows{0, shape.empty() ? 1 : shape[0], &view};
  if (part) {
    if (shape.empty() || part->begin > part->end || shape[0] != part->end - part->begin) {
      throw CheckpointError(concat(folder_, ": tensor ", printable(view.name), " has the shape ",
                                   shape_text(shape), ", which is not what its name says"));
    }
    rows = {part->begin, part->end, &view};
    shape[0] = part->total;
  }
  if (tensor.parts.empty()) {
    tensor.shape = shape;
    tensor.dtype = view.dtype;
  }
  if (tensor.shape != shape || tensor.dtype != view.dtype) {
    throw CheckpointError(concat(folder_, ": parts ", printable(tensor.parts[0].view->name),
                                 " and ", printable(view.name), " disagree in dtype or shape"));
  }
  tensor.parts.push_back(rows);
}

const ShardedTensor* ShardedTensors::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const ShardedTensor& ShardedTensors::at(const std::string& name) const {
  if (const ShardedTensor* tensor = find(name)) return *tensor;
  const std::string closest = nearest(name, names());
  throw CheckpointError(
      concat("checkpoint ", folder_, " has no tensor ", printable(name),
             closest.empty() ? "" : concat("; the nearest name is ", printable(closest))));
}

std::vector<std::string> ShardedTensors::names() const {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : tensors_) result.push_back(name);
  return result;
}

}  // namespace fbi::formats
