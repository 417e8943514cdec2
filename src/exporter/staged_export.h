#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "fbi/config/model_tensors.h"
#include "fbi/exporter/export.h"

namespace fbi::exporter {

/// The temporary folder own_temporary(`.tmp-NAME`) beside a target folder NAME, removed again
/// unless committed. What killed exports left there is removed first.
struct StagedExport::Impl {
  /// Throws UsageError when the target exists and is not an empty folder, DiskError when nothing
  /// can be written there.
  explicit Impl(const std::filesystem::path& target);
  ~Impl();
  /// Counts one of `total` tensors in the report and tells options.on_progress.
  void wrote_tensor(const config::TensorSpec& tensor, std::size_t total,
                    const ExportOptions& options);
  /// Fills in the report's bits_per_weight once all tensors are counted.
  void wrote_all(std::uint64_t tensor_bytes);
  /// Fills in the report's files and bytes.
  void list_files();

  std::filesystem::path target, staging;
  ExportReport report;  ///< its directory is the target from the start
  bool committed = false;
};

}  // namespace fbi::exporter
