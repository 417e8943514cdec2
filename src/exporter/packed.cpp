#include "fbi/exporter/packed.h"

#include <string>

#include "exporter/export_folder.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"

namespace fbi::exporter {
namespace {

using formats::DType;
using Role = config::TensorSpec::Role;

class PackedContent final : public FolderContent {
 public:
  PackedContent(const formats::ModelSource& source, const config::ModelConfig& model,
                DType dense_dtype)
      : dense_dtype_(dense_dtype),
        reader_(source, dense_dtype),
        tensors_(config::model_tensors(model)) {}

  const std::vector<config::TensorSpec>& tensors() const override { return tensors_; }
  formats::TensorView layout(const config::TensorSpec& tensor) const override {
    if (tensor.role != Role::kLatent) return {tensor.name, dtype_of(tensor), tensor.shape, {}};
    return {config::sign_bits_name(tensor.name),
            DType::kU8,
            {tensor.shape[0], kernels::row_bytes(tensor.shape[1])},
            {}};
  }
  std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                ZeroCounts& zeros) const override {
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
  DType dtype_of(const config::TensorSpec& tensor) const {
    return tensor.role == Role::kDense && tensor.shape.size() == 2 ? dense_dtype_ : DType::kF32;
  }

  std::vector<std::byte> sign_bits(const config::TensorSpec& tensor, ZeroCounts& zeros) const {
    const std::vector<float> latent = reader_.read_finite(tensor);
    zeros.exact += count_zeros(latent).exact;
    const kernels::MatrixShape shape = {tensor.shape[0], tensor.shape[1]};
    std::vector<std::byte> bits(
        static_cast<std::size_t>(shape.rows * kernels::row_bytes(shape.columns)));
    SerialFor serial;
    kernels::pack_signs(latent.data(), shape, reinterpret_cast<std::uint8_t*>(bits.data()), serial);
    return bits;
  }

  DType dense_dtype_;
  TensorReader reader_;
  std::vector<config::TensorSpec> tensors_;
};

}  // namespace

StagedExport export_packed(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, DType dense_dtype,
                           const ExportOptions& options) {
  validate(Folding{dense_dtype});
  if (model.binarize == config::Binarize::kNone) {
    throw UsageError(concat(source.description(),
                            " is not binarized; there are no signs to pack, export it as hf"));
  }
  config::ModelConfig resolved = model;
  config::resolve(resolved);
  return export_folder(source, resolved, PackedContent(source, resolved, dense_dtype),
                       ExportKind::kPacked, Folding{dense_dtype}, target, options);
}

}  // namespace fbi::exporter
