#include "fbi/exporter/export.h"

#include "exporter/export_folder.h"
#include "exporter/folded_tensors.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"

namespace fbi::exporter {
namespace {

using formats::DType;

class NativeContent final : public FolderContent {
 public:
  NativeContent(const formats::ModelSource& source, const config::ModelConfig& model)
      : reader_(source, DType::kF32), tensors_(config::model_tensors(model)) {}

  const std::vector<config::TensorSpec>& tensors() const override { return tensors_; }
  formats::TensorView layout(const config::TensorSpec& tensor) const override {
    return {tensor.name, DType::kF32, tensor.shape, {}};
  }
  std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                ZeroCounts& zeros) const override {
    const std::vector<float> values = reader_.read_for_cast(tensor);
    if (tensor.role == config::TensorSpec::Role::kLatent) zeros += count_zeros(values);
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    cast(values, DType::kF32, bytes);
    return bytes;
  }

 private:
  TensorReader reader_;
  std::vector<config::TensorSpec> tensors_;
};

}  // namespace

StagedExport export_native(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const ExportOptions& options) {
  config::ModelConfig resolved = model;
  config::resolve(resolved);
  return export_folder(source, resolved, NativeContent(source, resolved), ExportKind::kNative,
                       {DType::kF32}, target, options);
}

StagedExport export_folded(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const Folding& folding,
                           const ExportOptions& options) {
  validate(folding);
  config::ModelConfig resolved = model;
  config::resolve(resolved);
  return export_folder(source, resolved, FoldedTensors(source, resolved, folding),
                       ExportKind::kFolded, folding, target, options);
}

}  // namespace fbi::exporter
