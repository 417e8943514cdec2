#include <cmath>

#include "fbi/config/model_size.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"
#include "infer/model_parts.h"

namespace fbi::infer {
namespace {

class RandomParts final : public ModelParts {
 public:
  explicit RandomParts(const config::ModelConfig& model) : config_(model) {}

  const config::ModelConfig& config() const override { return config_; }
  std::vector<float> norm(const std::string&) const override {
    return std::vector<float>(static_cast<std::size_t>(config_.hidden_size), 1.0f);
  }
  /// Such that the outputs of a layer are about as large as its inputs.
  std::vector<float> alpha(const std::string& linear) const override {
    const auto shape = shape_of(linear);
    return std::vector<float>(scale_count(shape), 1 / std::sqrt(static_cast<float>(shape.inputs)));
  }
  std::vector<float> beta(const std::string& linear) const override {
    return std::vector<float>(scale_count(shape_of(linear)), 1e-4f);
  }
  const std::uint8_t* sign_bits(const std::string& linear, kernels::MatrixShape shape,
                                std::vector<std::uint8_t>& memory) const override {
    memory.resize(static_cast<std::size_t>(shape.rows * kernels::row_bytes(shape.columns)));
    RandomStream random(1, hash64(linear));
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < memory.size(); ++k) {
      if (k % 4 == 0) word = random.next_u32();
      memory[k] = static_cast<std::uint8_t>(word >> (k % 4 * 8));
    }
    if (shape.columns % 8 == 0) return memory.data();
    const std::int64_t stride = kernels::row_bytes(shape.columns);
    for (std::int64_t o = 1; o <= shape.rows; ++o) {
      memory[o * stride - 1] &= static_cast<std::uint8_t>((1 << shape.columns % 8) - 1);
    }
    return memory.data();
  }
  /// Multiples of a power of two that fp16 holds without rounding, as is_half says.
  void row(const std::string& name, std::int64_t index, std::span<float> out) const override {
    RandomStream random(static_cast<std::uint64_t>(index), hash64(name));
    const double width =
        std::exp2(std::round(std::log2(4 / std::sqrt(static_cast<double>(out.size())))));
    for (float& value : out) {
      const int step = static_cast<int>(random.next_u32() >> 21) - 1024;
      value = static_cast<float>(width * 0x1p-11 * step);
    }
  }
  bool is_half(const std::string&) const override { return true; }

 private:
  config::LinearShape shape_of(const std::string& linear) const {
    for (const config::LinearShape& shape : config::decoder_linears(config_)) {
      if (linear.ends_with(shape.name)) return shape;
    }
    return {0, 0};
  }
  std::size_t scale_count(config::LinearShape shape) const {
    return static_cast<std::size_t>(config::scale_count(config_.binarize, shape));
  }

  config::ModelConfig config_;
};

}  // namespace

std::unique_ptr<ModelParts> random_parts(const config::ModelConfig& model) {
  return std::make_unique<RandomParts>(model);
}

}  // namespace fbi::infer
