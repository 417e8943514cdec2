#include "fbi/exporter/packed.h"

#include <string>
#include <utility>
#include <vector>

#include "exporter/model_card.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/checksums.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/text/hugging_face.h"

namespace fbi::exporter {
namespace {

using formats::DType;
using Role = TensorSpec::Role;

std::string bits_name(const std::string& weight) {
  return concat(weight.substr(0, weight.size() - config::kLatentWeight.size()), config::kSignBits);
}

class PackedExporter {
 public:
  PackedExporter(const formats::ModelSource& source, const config::ModelConfig& model,
                 DType dense_dtype)
      : model_(model), dense_dtype_(dense_dtype), reader_(source, dense_dtype) {
    config::resolve(model_);
    tensors_ = model_tensors(model_);
  }

  std::vector<formats::TensorView> layout() const {
    std::vector<formats::TensorView> layout;
    for (const TensorSpec& tensor : tensors_) {
      if (tensor.role == Role::kLatent) {
        layout.push_back({bits_name(tensor.name),
                          DType::kU8,
                          {tensor.shape[0], kernels::row_bytes(tensor.shape[1])},
                          {}});
      } else {
        layout.push_back({tensor.name, dtype_of(tensor), tensor.shape, {}});
      }
    }
    return layout;
  }

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  const config::ModelConfig& model() const { return model_; }

  std::vector<std::byte> encode(const TensorSpec& tensor, ZeroCounts& zeros) const {
    if (tensor.role == Role::kLatent) return sign_bits(tensor, zeros);
    const DType dtype = dtype_of(tensor);
    std::vector<std::byte> bytes(
        static_cast<std::size_t>(tensor.numel() * formats::size_of(dtype)));
    cast(dtype == DType::kF32 ? reader_.read_finite(tensor) : reader_.read_for_cast(tensor), dtype,
         bytes);
    return bytes;
  }

 private:
  /// Matrices that are not binarized are worth rounding; vectors cost nothing.
  DType dtype_of(const TensorSpec& tensor) const {
    return tensor.role == Role::kDense && tensor.shape.size() == 2 ? dense_dtype_ : DType::kF32;
  }

  std::vector<std::byte> sign_bits(const TensorSpec& tensor, ZeroCounts& zeros) const {
    const std::vector<float> latent = reader_.read_finite(tensor);
    zeros.exact += count_zeros(latent).exact;
    const kernels::MatrixShape shape = {tensor.shape[0], tensor.shape[1]};
    std::vector<std::byte> bits(
        static_cast<std::size_t>(shape.rows * kernels::row_bytes(shape.columns)));
    SerialFor serial;
    kernels::pack_signs(latent.data(), shape, reinterpret_cast<std::uint8_t*>(bits.data()), serial);
    return bits;
  }

  config::ModelConfig model_;
  DType dense_dtype_;
  TensorReader reader_;
  std::vector<TensorSpec> tensors_;
};

void write_tensors(const PackedExporter& exporter, StagedExport::Impl& staged,
                   const ExportOptions& options) {
  formats::TensorFolderWriter writer(staged.staging, exporter.layout(), options.max_shard_bytes);
  for (const TensorSpec& tensor : exporter.tensors()) {
    writer.write(exporter.encode(tensor, staged.report.zeros));
    staged.wrote_tensor(tensor, exporter.tensors().size(), options);
  }
  writer.finish();
  staged.wrote_all(writer.tensor_bytes());
}

}  // namespace

StagedExport export_packed(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, DType dense_dtype,
                           const ExportOptions& options) {
  validate(Folding{dense_dtype});
  if (model.binarize == config::Binarize::kNone) {
    throw UsageError(concat(source.description(),
                            " is not binarized; there are no signs to pack, export it as hf"));
  }
  const PackedExporter exporter(source, model, dense_dtype);
  check_tokenizer_fits(options.tokenizer, exporter.model());
  check_tensors(source, exporter.model());
  auto staged = std::make_unique<StagedExport::Impl>(target);
  write_tensors(exporter, *staged, options);
  write_model_configuration(staged->staging, exporter.model(), dense_dtype,
                            config::ModelName::kPacked);
  if (options.tokenizer) {
    staged->report.tokenizer_note = text::write_hugging_face_tokenizer(
        *options.tokenizer, staged->staging, exporter.model().max_position_embeddings);
  }
  write_file(staged->staging / "README.md",
             model_card_text(exporter.model(), ExportKind::kPacked, Folding{dense_dtype},
                             options.card, staged->report));
  formats::write_checksums(staged->staging);
  staged->list_files();
  return StagedExport(std::move(staged));
}

}  // namespace fbi::exporter
