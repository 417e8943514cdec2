#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fbi/config/model_tensors.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/formats/model_source.h"
#include "fbi/formats/safetensors.h"

namespace fbi::formats {
namespace {

/// Bit i mod 8, least significant first, of byte i / 8 of a row: 1 is +1, 0 is -1.
void unpack_row(const std::byte* bits, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = std::to_integer<int>(bits[i / 8] >> (i % 8)) & 1 ? 1.0f : -1.0f;
}

class PackedSource final : public ModelSource {
 public:
  PackedSource(const std::filesystem::path& directory, const config::ModelConfig& model)
      : tensors_(directory) {
    for (config::TensorSpec& tensor : config::model_tensors(model)) {
      if (tensor.role == config::TensorSpec::Role::kLatent)
        latent_.emplace(config::sign_bits_name(tensor.name), std::move(tensor));
    }
  }
  std::string description() const override { return tensors_.path().string(); }
  /// Signs beside the weights that they are of keep their own name, which no model has.
  std::vector<std::string> names() const override {
    std::vector<std::string> all = tensors_.names();
    for (std::string& name : all) {
      const auto latent = latent_.find(name);
      if (latent != latent_.end() && !tensors_.find(latent->second.name))
        name = latent->second.name;
    }
    return all;
  }
  /// Of signs that are not those of the model what is stored, which fits no model.
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    if (const TensorView* view = tensors_.find(name)) return view->shape;
    const TensorView* bits = bits_of(name);
    if (!bits) return std::nullopt;
    const auto latent = latent_.find(bits->name);
    if (latent == latent_.end()) return bits->shape;
    const std::vector<std::int64_t>& shape = latent->second.shape;
    return bits->shape == std::vector{shape[0], (shape[1] + 7) / 8} ? shape : bits->shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    const TensorView* bits = tensors_.find(name) ? nullptr : bits_of(name);
    if (!bits) return to_float(tensors_.at(name), out);
    const auto rows = static_cast<std::size_t>(bits->shape[0]);
    const std::size_t columns = out.size() / rows, row_bytes = bits->bytes.size() / rows;
    for (std::size_t row = 0; row < rows; ++row)
      unpack_row(bits->bytes.data() + row * row_bytes, out.subspan(row * columns, columns));
  }

 private:
  const TensorView* bits_of(const std::string& weight) const {
    if (!weight.ends_with(config::kLatentWeight)) return nullptr;
    const TensorView* bits = tensors_.find(config::sign_bits_name(weight));
    if (bits && bits->dtype != DType::kU8)
      throw DataError(concat(bits->name, " in ", description(), ": expected U8, found ",
                             to_string(bits->dtype)));
    return bits;
  }

  TensorFolder tensors_;
  std::map<std::string, config::TensorSpec> latent_;  ///< by the names of their signs
};

}  // namespace

std::unique_ptr<ModelSource> packed_source(const std::filesystem::path& directory,
                                           const config::ModelConfig& model) {
  return std::make_unique<PackedSource>(directory, model);
}

}  // namespace fbi::formats
