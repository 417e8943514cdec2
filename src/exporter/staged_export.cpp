#include "exporter/staged_export.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/temporary.h"

namespace fbi::exporter {
namespace {

namespace fs = std::filesystem;

void refuse_used_target(const fs::path& target) {
  if (!fs::exists(fs::symlink_status(target))) return;
  if (!fs::is_directory(target)) {
    throw UsageError(concat(target.string(), " exists and is not a folder; choose another target"));
  }
  if (!fs::is_empty(target)) {
    throw UsageError(concat(target.string(),
                            " exists and is not empty; choose another target or remove it first"));
  }
}

}  // namespace

StagedExport::Impl::Impl(const fs::path& requested) {
  if (requested.empty()) throw UsageError("the export has no target folder");
  try {
    target = report.directory = plain_path(requested);
    require_renamable(target);
    refuse_used_target(target);
    const fs::path prefix = target.parent_path() / (".tmp-" + target.filename().string());
    remove_dead_temporaries(prefix);
    staging = own_temporary(prefix);
    fs::remove_all(staging);
    fs::create_directories(staging);
  } catch (const fs::filesystem_error& error) {
    throw DiskError(concat("cannot export to ", requested.string(), ": ", error.code().message(),
                           " (", error.path1().string(), ")"));
  }
}

StagedExport::Impl::~Impl() {
  std::error_code ignored;
  if (!committed) fs::remove_all(staging, ignored);
}

void StagedExport::Impl::wrote_tensor(const config::TensorSpec& tensor, std::size_t total,
                                      const ExportOptions& options) {
  ++report.tensors;
  if (tensor.is_weight()) report.weights += tensor.numel();
  if (options.on_progress) {
    options.on_progress({report.tensors, static_cast<std::int64_t>(total)});
  }
}

void StagedExport::Impl::wrote_all(std::uint64_t tensor_bytes) {
  report.bits_per_weight =
      8.0 * static_cast<double>(tensor_bytes) / static_cast<double>(report.weights);
}

void StagedExport::Impl::list_files() {
  try {
    for (const auto& entry : fs::directory_iterator(staging)) {
      report.files.push_back(entry.path().filename().string());
      report.bytes += entry.file_size();
    }
  } catch (const fs::filesystem_error& error) {
    throw DiskError(concat("cannot list ", staging.string(), ": ", error.code().message()));
  }
  std::ranges::sort(report.files);
}

StagedExport::StagedExport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StagedExport::StagedExport(StagedExport&&) noexcept = default;
StagedExport& StagedExport::operator=(StagedExport&&) noexcept = default;
StagedExport::~StagedExport() = default;

const fs::path& StagedExport::path() const {
  return impl_->committed ? impl_->target : impl_->staging;
}

const ExportReport& StagedExport::report() const {
  return impl_->report;
}

ExportReport StagedExport::commit() {
  if (impl_->committed) return impl_->report;
  sync_directory(impl_->staging);
  std::error_code error;
  fs::rename(impl_->staging, impl_->target, error);  // replaces an empty folder, never a full one
  if (error == std::errc::directory_not_empty || error == std::errc::file_exists ||
      error == std::errc::not_a_directory) {
    throw UsageError(concat(impl_->target.string(),
                            " was made by another process meanwhile and is left as it is; choose "
                            "another target"));
  }
  if (error) {
    throw DiskError(concat("cannot rename the finished export ", impl_->staging.string(), " to ",
                           impl_->target.string(), ": ", error.message()));
  }
  impl_->committed = true;
  sync_directory(impl_->target.parent_path());
  return impl_->report;
}

}  // namespace fbi::exporter
