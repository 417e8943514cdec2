#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

namespace torch::nn {
class LinearImpl;
class Module;
}  // namespace torch::nn

namespace fbi::nn {

/// True leaves the layer dense. `name` is its dotted path below the module, e.g.
/// "layers.0.self_attn.q_proj".
using KeepDense = std::function<bool(const std::string& name, const torch::nn::LinearImpl& linear)>;

/// The handle of binarize_linear_layers. It shares each layer and holds its latent weight, alpha
/// and beta; copies of the handle refer to the same layers. Parameters that `module->to(...)` moves
/// or torch::load fills stay the same tensors.
class BinarizedLayers {
 public:
  struct Layer {
    std::string name;
    std::shared_ptr<torch::nn::LinearImpl> linear;
    at::Tensor latent;  ///< [O, I], registered as "weight"
    at::Tensor wscale;  ///< alpha, registered under this name
    at::Tensor wbias;   ///< beta, registered under this name
  };

  /// Puts alpha · sign(latent) + beta, with its graph, into the public `weight` of every layer.
  /// Must be called before every forward: a graph serves one backward, and an optimizer step makes
  /// it stale.
  void prepare();

  /// Takes `weight` from every layer, so that a forward without prepare() throws instead of
  /// computing with the signs of before.
  void release();

  /// prepare(), model->forward(arguments...), release(): the way that cannot be forgotten.
  template <class Model, class... Arguments>
  decltype(auto) forward(Model& model, Arguments&&... arguments) {
    struct Release {
      BinarizedLayers& layers;
      ~Release() { layers.release(); }
    } release_at_end{*this};
    prepare();
    return model->forward(std::forward<Arguments>(arguments)...);
  }

  const std::vector<Layer>& layers() const { return layers_; }

 private:
  friend BinarizedLayers binarize_linear_layers(torch::nn::Module&, const KeepDense&,
                                                ops::ScalePattern);
  std::vector<Layer> layers_;
};

/// Binarizes every torch::nn::Linear below `module`, except those that `keep` wants dense, in a
/// model that exists, typed members (`Linear fc`) included. LinearImpl::forward is not virtual, so
/// the layers stay what they are: the registered parameter "weight" becomes the latent weight,
/// "wscale" and "wbias" are registered beside it with their published initial values, an additive
/// bias is kept, and the handle supplies the weight that forward reads. Hence parameters(),
/// optimizers, torch::save and torch::load see latent, alpha and beta once each, under the
/// published names. Make the optimizer after this call, so that it sees alpha and beta. clone() of
/// such a model throws.
///
/// Throws UsageError, before anything is changed, when no layer is left to binarize, when a weight
/// is neither Float nor Double, or when a layer's `weight` is not its registered parameter (tied to
/// another tensor, or binarized before).
BinarizedLayers binarize_linear_layers(torch::nn::Module& module, const KeepDense& keep = {},
                                       ops::ScalePattern pattern = ops::ScalePattern::kColumn);

}  // namespace fbi::nn
