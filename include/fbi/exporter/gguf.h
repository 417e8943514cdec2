#pragma once

#include <filesystem>
#include <memory>

#include "fbi/exporter/export.h"

namespace fbi::exporter {

inline constexpr const char* kGgufFile = "model.gguf";

/// A folder with `model.gguf`, which llama.cpp runs: the weights of export_folded in folding.dtype (F32 or F16), norms in F32, and the
/// tokenizer. Rows of q and k lie in llama.cpp's order. Throws as export_folded does; UsageError also for other dtypes.
StagedExport export_gguf(const formats::ModelSource& source, const config::ModelConfig& model, const std::filesystem::path& target,
                         const Folding& folding = {}, const ExportOptions& options = {});

/// The tensors of such a file under their names in Hugging Face folders, rows of q and k in the order that these have. `model` is what the
/// file was made from.
std::unique_ptr<formats::ModelSource> gguf_source(const std::filesystem::path& file, const config::ModelConfig& model);

}  // namespace fbi::exporter
