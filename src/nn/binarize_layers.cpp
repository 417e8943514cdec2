#include "fbi/nn/binarize_layers.h"

#include <algorithm>

#include <torch/nn/modules/linear.h>

#include "fbi/core/error.h"
#include "fbi/ops/binarize.h"

namespace fbi::nn {
namespace {

using Layer = BinarizedLayers::Layer;

void check_binarizable(const std::string& name, const torch::nn::LinearImpl& linear) {
  const auto parameters = linear.named_parameters(/*recurse=*/false);
  const at::Tensor* registered = parameters.find("weight");
  if (registered == nullptr || !registered->is_same(linear.weight))
    throw UsageError(concat("binarize_linear_layers: the weight of ", name,
                            " is not its registered parameter: it is tied to another tensor or "
                            "already binarized; leave it out through `keep`"));
  const at::ScalarType dtype = linear.weight.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble)
    throw UsageError(concat("binarize_linear_layers: the weight of ", name, " is ", dtype,
                            ", but latent weights are kept in Float; convert the model with "
                            "to(torch::kFloat) first"));
}

/// All linears below the module that `keep` does not hold back, each once, in the order of
/// named_modules.
std::vector<Layer> select_layers(torch::nn::Module& module, const KeepDense& keep) {
  std::vector<Layer> layers;
  for (const auto& entry : module.named_modules("", /*include_self=*/false)) {
    auto linear = std::dynamic_pointer_cast<torch::nn::LinearImpl>(entry.value());
    if (!linear || (keep && keep(entry.key(), *linear))) continue;
    const auto same = [&](const Layer& layer) { return layer.linear == linear; };
    if (std::any_of(layers.begin(), layers.end(), same)) continue;  // one layer used in two places
    check_binarizable(entry.key(), *linear);
    layers.push_back({entry.key(), linear, linear->weight, {}, {}});
  }
  if (layers.empty())
    throw UsageError(concat("binarize_linear_layers: found no torch::nn::Linear to binarize below ",
                            module.name(),
                            "; pass the module that contains the layers, and check `keep`"));
  return layers;
}

}  // namespace

BinarizedLayers binarize_linear_layers(torch::nn::Module& module, const KeepDense& keep,
                                       ops::ScalePattern pattern) {
  BinarizedLayers result;
  result.layers_ = select_layers(module, keep);
  for (Layer& layer : result.layers_) {
    const ops::Scales scales = ops::initial_scales(layer.latent, pattern);
    const bool trainable = layer.latent.requires_grad();
    layer.wscale = layer.linear->register_parameter("wscale", scales.alpha, trainable);
    layer.wbias = layer.linear->register_parameter("wbias", scales.beta, trainable);
  }
  result.prepare();
  return result;
}

void BinarizedLayers::prepare() {
  for (Layer& layer : layers_)
    layer.linear->weight = ops::binarize(layer.latent, layer.wscale, layer.wbias);
}

void BinarizedLayers::release() {
  for (Layer& layer : layers_) layer.linear->weight = at::Tensor();
}

}  // namespace fbi::nn
