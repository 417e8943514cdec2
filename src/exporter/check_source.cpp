#include "exporter/check_source.h"

#include <vector>

#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"

namespace fbi::exporter {

void check_source(const formats::ModelSource& source, const config::ModelConfig& model) {
  formats::check_tensors(source, model, formats::Scales::kRequired);
  if (model.binarize != config::Binarize::kColumn || !model.tie_scales) return;
  // A tied alpha, which files hold once for each of its layers.
  const auto owners = config::scale_owners(model);
  const auto linears = config::decoder_linears(model);
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    for (std::size_t n = 0; n < owners.size(); ++n) {
      if (owners[n] == n) continue;
      const std::string prefix = config::layer_prefix(layer);
      const std::string name = concat(prefix, linears[n].name, config::kScale);
      const std::string owner = concat(prefix, linears[owners[n]].name, config::kScale);
      std::vector<float> found(static_cast<std::size_t>(linears[n].inputs)), expected(found.size());
      source.read(name, found);
      source.read(owner, expected);
      if (found == expected) continue;
      throw DataError(concat(name, " in ", source.description(), " differs from ", owner,
                             ", but tie_scales is true: q, k and v must have the same scales, and "
                             "so must gate and up"));
    }
  }
}

}  // namespace fbi::exporter
