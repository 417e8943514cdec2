#pragma once

#include <filesystem>

#include "fbi/exporter/export.h"

namespace fbi::exporter {

/// A packed 1-bit export (docs/formats.md), which infer::PackedModel reads: signs as
/// `….weight_bits`, their scales and shifts and the norms in fp32, embedding and head in
/// `dense_dtype` (F32, F16 or BF16). Throws as export_native does; UsageError when the model is not
/// binarized, DataError also when a value does not fit the dtype.
StagedExport export_packed(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target,
                           formats::DType dense_dtype = formats::DType::kF16,
                           const ExportOptions& options = {});

}  // namespace fbi::exporter
