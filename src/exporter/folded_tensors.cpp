#include "exporter/folded_tensors.h"

#include <cmath>

#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"

namespace fbi::exporter {

using Role = config::TensorSpec::Role;

FoldedTensors::FoldedTensors(const formats::ModelSource& source, const config::ModelConfig& model,
                             const Folding& folding)
    : source_(source),
      binarize_(model.binarize),
      shift_(model.shift),
      folding_(folding),
      reader_(source, folding.dtype),
      tensors_(config::model_tensors(model)) {
  std::erase_if(tensors_, [](const config::TensorSpec& tensor) { return !tensor.is_weight(); });
}

std::vector<std::byte> FoldedTensors::encode(const config::TensorSpec& tensor,
                                             ZeroCounts& zeros) const {
  std::vector<std::byte> bytes(
      static_cast<std::size_t>(tensor.numel() * formats::size_of(folding_.dtype)));
  if (tensor.role != Role::kLatent) {
    cast(reader_.read_for_cast(tensor), folding_.dtype, bytes);
    return bytes;
  }
  zeros += fold_matrix(tensor, bytes);
  return bytes;
}

ZeroCounts FoldedTensors::fold_matrix(const config::TensorSpec& tensor,
                                      std::span<std::byte> out) const {
  const kernels::MatrixShape shape = {tensor.shape[0], tensor.shape[1]};
  const auto scales = config::scale_shape(binarize_, {shape.rows, shape.columns});
  const std::vector<float> latent = reader_.read_finite(tensor);
  const std::vector<float> scale =
      reader_.read_for_cast({config::scale_name(tensor.name), scales, Role::kScale});
  const std::vector<float> shift =
      shift_ ? reader_.read_for_cast({config::shift_name(tensor.name), scales, Role::kShift})
             : std::vector<float>(scale.size());
  for (std::size_t i = 0; i < scale.size(); ++i) {
    if (!(std::abs(scale[i]) + std::abs(shift[i]) < overflow_limit(folding_.dtype))) {
      throw DataError(concat(tensor.name, ": weight ", shift[i], " ± ", scale[i], " (pair ", i,
                             ") in ", source_.description(), " is too large for ",
                             formats::to_string(folding_.dtype), "; export it in another dtype"));
    }
  }
  return fold({shape, kernels::ScaleStrides::of(binarize_), latent, scale, shift}, folding_, out);
}

}  // namespace fbi::exporter
