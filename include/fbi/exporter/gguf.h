#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "fbi/exporter/export.h"

namespace fbi::exporter {

inline constexpr const char* kGgufFile = "model.gguf";
/// Inputs of a Q1_0 matrix that llama.cpp rounds to int8 together.
inline constexpr std::int64_t kActivationBlock = 32;

/// A folder with `model.gguf`, which llama.cpp runs: the weights of export_folded in folding.dtype
/// (F32 or F16), norms in F32, and the tokenizer. Rows of q and k lie in llama.cpp's order. Throws
/// as export_folded does; UsageError also for other dtypes.
StagedExport export_gguf(const formats::ModelSource& source, const config::ModelConfig& model,
                         const std::filesystem::path& target, const Folding& folding = {},
                         const ExportOptions& options = {});

/// The same with binarized matrices at one bit, in llama.cpp's type Q1_0, embedding and head in
/// F16, for models trained with tied scales and without shifts: scales fold into norms and into
/// rows of v and up (docs/formats.md). The file says what the model computes but for two roundings:
/// alpha of o and of down to fp16, and one fp32 product for each norm weight. Throws as export_gguf
/// does; UsageError with the reason for other models.
StagedExport export_gguf_q1_0(const formats::ModelSource& source, const config::ModelConfig& model,
                              const std::filesystem::path& target,
                              const ExportOptions& options = {});

/// The tensors of either kind of file under their names in Hugging Face folders, rows of q and k in
/// the order that these have. `model` is what the file was made from.
std::unique_ptr<formats::ModelSource> gguf_source(const std::filesystem::path& file,
                                                  const config::ModelConfig& model);

}  // namespace fbi::exporter
