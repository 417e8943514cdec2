#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/core/parallel.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/kernels/gemv.h"

namespace fbi::infer {

/// What a binarized model is made of, by published name; every value is finite.
class ModelParts {
 public:
  virtual ~ModelParts() = default;
  virtual const config::ModelConfig& config() const = 0;
  /// A norm.
  virtual std::vector<float> norm(const std::string& name) const = 0;
  /// Of a linear, without suffix.
  virtual std::vector<float> alpha(const std::string& linear) const = 0;
  virtual std::vector<float> beta(const std::string& linear) const = 0;  ///< config().shift only
  /// Packed as kernels::binary_matrix.h says, in `memory` or where they already lie.
  virtual const std::uint8_t* sign_bits(const std::string& linear, kernels::MatrixShape shape,
                                        std::vector<std::uint8_t>& memory) const = 0;
  /// Row of the embedding or head [V, D]; from several threads.
  virtual void row(const std::string& name, std::int64_t index, std::span<float> out) const = 0;
  virtual bool is_half(const std::string& name) const = 0;  ///< stored as fp16
};

/// The embedding's own where they are tied.
const char* head_name(const config::ModelConfig& model);
/// The embedding or head [V, D], stored as wanted, or as the file has it (BF16 as fp32).
kernels::DenseLinear dense_weights(const ModelParts& parts, const std::string& name,
                                   const std::optional<kernels::Storage>& wanted,
                                   ParallelFor& parallel);

/// A packed or native export; throws as PackedModel does. Mapped as long as it lives.
std::unique_ptr<ModelParts> file_parts(const std::filesystem::path& directory,
                                       ParallelFor& parallel);
/// Random signs, scales and rows, for measurements; `model` is resolved and binarized.
std::unique_ptr<ModelParts> random_parts(const config::ModelConfig& model);

}  // namespace fbi::infer
