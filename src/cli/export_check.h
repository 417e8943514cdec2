#pragma once

#include <filesystem>
#include <optional>

#include <ATen/core/ScalarType.h>

#include "fbi/nn/model_folder.h"

namespace fbi::cli {

/// Logits of an export against those of the model it was made from, on random windows, fp32
/// arithmetic. Both are loaded one after the other: a dense model of 4 bytes per parameter is the
/// most that memory holds.
struct ExportComparison {
  double worst_to_rounded =
      0;  ///< largest absolute difference to the model with the same rounded weights
  double kl_to_rounded = 0;       ///< mean KL(that model || export), nats per token
  double worst_to_unrounded = 0;  ///< to the model as trained
  double kl_to_unrounded = 0;     ///< mean KL(model as trained || export), nats per token
  /// Q1_0 only: export against export whose arithmetic is llama.cpp's, which rounds inputs of bits
  /// to int8.
  std::optional<double> kl_of_int8_activations;
  double worst_of_int8_activations = 0;
};

/// Largest worst_to_rounded that counts as equal: both sides multiply the same values in fp32, only
/// in another order.
inline constexpr double kExportTolerance = 1e-5;

ExportComparison compare_export(const std::filesystem::path& source,
                                const std::filesystem::path& exported, at::ScalarType dtype);

/// Largest kl_to_rounded of a packed or Q1_0 export: it multiplies signs, scales and shifts apart,
/// so its sums round otherwise.
inline constexpr double kPackedTolerance = 1e-6;

/// The same for a packed export, run by infer::PackedModel; only embedding and head are rounded to
/// `dtype`.
ExportComparison compare_packed_export(const std::filesystem::path& source,
                                       const std::filesystem::path& exported, at::ScalarType dtype);

/// The same for a GGUF export, whose tensors are read back into a model of ours.
ExportComparison compare_gguf_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype);

/// The same for a Q1_0 export. Rounded to `dtype` (fp16) are alpha of o and down, embedding and
/// head.
ExportComparison compare_bits_export(const std::filesystem::path& source,
                                     const std::filesystem::path& exported, at::ScalarType dtype);

}  // namespace fbi::cli
