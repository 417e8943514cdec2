#include "fbi/exporter/import.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "exporter/check_source.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/formats/checksums.h"

namespace fbi::exporter {
namespace {

namespace fs = std::filesystem;
using formats::DType;

std::vector<formats::TensorView> layout_of(const formats::TensorFolder& source,
                                           const std::vector<config::TensorSpec>& tensors) {
  std::vector<formats::TensorView> layout;
  for (const config::TensorSpec& tensor : tensors) {
    layout.push_back(source.at(tensor.name));
    const DType dtype = layout.back().dtype;
    if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
      throw DataError(concat(tensor.name, " in ", source.path().string(),
                             ": expected F32, F16 or BF16, found ", formats::to_string(dtype)));
    }
  }
  return layout;
}

void check_written(const formats::TensorFolder& written,
                   const std::vector<formats::TensorView>& layout) {
  for (const formats::TensorView& expected : layout) {
    const formats::TensorView& found = written.at(expected.name);
    if (found.dtype != expected.dtype || found.shape != expected.shape ||
        !std::ranges::equal(found.bytes, expected.bytes)) {
      throw DiskError(concat(expected.name, " in ", written.path().string(),
                             " is not what was written there; the disk or the source changed"));
    }
  }
}

}  // namespace

StagedExport import_model(const fs::path& source, const config::ModelConfig& unresolved,
                          const fs::path& target, const ExportOptions& options) {
  config::ModelConfig model = unresolved;
  config::resolve(model);
  const auto values = formats::folder_source(source);
  check_source(*values, model);
  const formats::TensorFolder folder(source);
  const std::vector<config::TensorSpec> tensors = config::model_tensors(model);
  const auto layout = layout_of(folder, tensors);

  auto staged = std::make_unique<StagedExport::Impl>(target);
  formats::TensorFolderWriter writer(staged->staging, layout, options.max_shard_bytes);
  const TensorReader reader(*values, DType::kF32);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<float> checked = reader.read_finite(tensors[i]);
    if (tensors[i].role == config::TensorSpec::Role::kLatent)
      staged->report.zeros += count_zeros(checked);
    writer.write(layout[i].bytes);
    staged->wrote_tensor(tensors[i], tensors.size(), options);
  }
  writer.finish();
  staged->wrote_all(writer.tensor_bytes());
  check_written(formats::TensorFolder(staged->staging), layout);
  write_model_configuration(staged->staging, model, layout.front().dtype);
  copy_tokenizer_files(source, staged->staging);
  formats::write_checksums(staged->staging);
  staged->list_files();
  return StagedExport(std::move(staged));
}

}  // namespace fbi::exporter
