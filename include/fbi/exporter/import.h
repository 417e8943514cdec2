#pragma once

#include <filesystem>

#include "fbi/config/run_config.h"
#include "fbi/exporter/export.h"

namespace fbi::exporter {

/// Makes a model folder of ours from another program's: config.json in our spelling, the tensors
/// that the architecture consists of, bit for bit in their own dtypes, as safetensors, and the
/// tokenizer's files as they are. `rotary_emb.inv_freq` and a repeated tied head are left out. What
/// was written is read again and compared. Of `options`, max_shard_bytes and on_progress count.
/// Throws UsageError (target exists and is not an empty folder), DataError (missing, unused or
/// misshapen tensor, dtype other than F32, F16 and BF16, value that is not finite), DiskError.
StagedExport import_model(const std::filesystem::path& source, const config::ModelConfig& model,
                          const std::filesystem::path& target, const ExportOptions& options = {});

}  // namespace fbi::exporter
