#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/formats/safetensors.h"
#include "support/bytes_of.h"
#include "support/flip_bit.h"
#include "support/write_safetensors.h"

namespace fbi::formats {

using test::bytes_of;
using test::write_safetensors;

/// A tensor together with its bytes.
class OwnedTensor {
 public:
  template <class T>
  OwnedTensor(std::string name, DType dtype, std::vector<std::int64_t> shape,
              const std::vector<T>& values)
      : bytes_(values.size() * sizeof(T)) {
    if (!values.empty()) std::memcpy(bytes_.data(), values.data(), bytes_.size());
    view_ = {std::move(name), dtype, std::move(shape), bytes_};
  }
  OwnedTensor(OwnedTensor&&) = default;
  const TensorView& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  TensorView view_;
};

inline OwnedTensor floats(std::string name, const std::vector<float>& values) {
  const auto count = static_cast<std::int64_t>(values.size());
  return {std::move(name), DType::kF32, {count}, values};
}

inline std::vector<TensorView> views_of(const std::vector<OwnedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const auto& tensor : tensors) views.push_back(tensor.view());
  return views;
}

inline std::vector<float> float_values(const TensorView& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  to_float(tensor, values);
  return values;
}

/// Overwrites bytes of a file in place, without the cost of a durable write.
inline void patch(const std::filesystem::path& path, std::uint64_t offset, std::string_view text) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
}

using test::flip_bit;

}  // namespace fbi::formats
