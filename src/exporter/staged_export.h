#pragma once

#include <filesystem>

#include "fbi/exporter/export.h"

namespace fbi::exporter {

/// The temporary folder `.tmp-NAME` beside a target folder NAME, removed again unless committed.
/// What a killed export left there is removed first.
struct StagedExport::Impl {
  /// Throws UsageError when the target exists and is not an empty folder, DiskError when nothing
  /// can be written there.
  explicit Impl(const std::filesystem::path& target);
  ~Impl();
  /// Fills in the report's directory, files and bytes.
  void list_files();

  std::filesystem::path target, staging;
  ExportReport report;
  bool committed = false;
};

}  // namespace fbi::exporter
