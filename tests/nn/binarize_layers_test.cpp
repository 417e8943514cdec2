#include "fbi/nn/binarize_layers.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>
#include <torch/serialize.h>

#include "fbi/core/error.h"
#include "fbi/nn/fbi_linear.h"
#include "support/expect_error.h"

namespace fbi::nn {
namespace {

using torch::nn::Linear;
using torch::nn::LinearOptions;

constexpr std::int64_t kVocab = 11, kHidden = 6, kWide = 10;

Linear dense(std::int64_t in, std::int64_t out) {
  return Linear(LinearOptions(in, out).bias(false));
}

/// A gated residual network with typed members, the way LibTorch models are written.
template <class Projection>
struct GatedNetImpl : torch::nn::Module {
  GatedNetImpl()
      : embed(kVocab, kHidden),
        gate(make(kHidden, kWide)),
        up(make(kHidden, kWide)),
        down(make(kWide, kHidden)),
        head(dense(kHidden, kVocab)) {
    register_module("embed", embed);
    register_module("gate", gate);
    register_module("up", up);
    register_module("down", down);
    register_module("head", head);
  }
  at::Tensor forward(const at::Tensor& tokens) {
    const at::Tensor x = embed(tokens);
    return head(x + down(gate(x).sigmoid() * up(x)));
  }
  static Projection make(std::int64_t in, std::int64_t out) {
    if constexpr (std::is_same_v<Projection, Linear>)
      return dense(in, out);
    else
      return Projection(in, out);
  }

  torch::nn::Embedding embed;
  Projection gate, up, down;
  Linear head;
};
struct DenseNetImpl : GatedNetImpl<Linear> {};
struct FbiNetImpl : GatedNetImpl<FbiLinear> {};
TORCH_MODULE(DenseNet);
TORCH_MODULE(FbiNet);

bool is_head(const std::string& name, const torch::nn::LinearImpl&) {
  return name == "head";
}

std::map<std::string, at::Tensor> parameters_by_name(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> result;
  for (const auto& entry : module.named_parameters())
    EXPECT_TRUE(result.emplace(entry.key(), entry.value()).second) << entry.key() << " twice";
  return result;
}

void copy_parameters(const torch::nn::Module& from, const torch::nn::Module& to) {
  torch::NoGradGuard no_grad;
  const auto source = parameters_by_name(from);
  for (const auto& [name, tensor] : parameters_by_name(to)) tensor.copy_(source.at(name));
}

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) {
  return at::cross_entropy_loss(logits, labels);
}

/// One step of `optimizer` on the loss of `logits`; returns the loss.
double train_step(torch::optim::Optimizer& optimizer, const at::Tensor& logits,
                  const at::Tensor& labels) {
  optimizer.zero_grad();
  const at::Tensor loss = loss_of(logits, labels);
  loss.backward();
  optimizer.step();
  return loss.item<double>();
}

TEST(BinarizeLinearLayers, TrainsLikeTheSameModelWrittenWithFbiLinear) {
  torch::manual_seed(3);
  DenseNet typed;
  FbiNet reference;
  BinarizedLayers binary = binarize_linear_layers(*typed, is_head);
  copy_parameters(*typed, *reference);
  const torch::optim::AdamWOptions options = torch::optim::AdamWOptions(1e-2).weight_decay(0.1);
  torch::optim::AdamW typed_optimizer(typed->parameters(), options);
  torch::optim::AdamW reference_optimizer(reference->parameters(), options);
  const at::Tensor start = typed->gate->named_parameters()["weight"].detach().clone();

  for (int step = 0; step < 12; ++step) {
    const at::Tensor tokens = torch::randint(kVocab, {16}), labels = torch::randint(kVocab, {16});
    const at::Tensor typed_logits = binary.forward(typed, tokens);
    const at::Tensor reference_logits = reference(tokens);
    // Both forms run the same operations in the same order on the same values: equal to the last
    // bit.
    ASSERT_TRUE(typed_logits.equal(reference_logits)) << "step " << step;
    ASSERT_EQ(train_step(typed_optimizer, typed_logits, labels),
              train_step(reference_optimizer, reference_logits, labels));
    const auto expected = parameters_by_name(*reference);
    const auto found = parameters_by_name(*typed);
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      ASSERT_TRUE(found.at(name).grad().equal(tensor.grad())) << name << ", step " << step;
      ASSERT_TRUE(found.at(name).equal(tensor)) << name << ", step " << step;
    }
  }
  const at::Tensor end = typed->gate->named_parameters()["weight"];
  EXPECT_GT((end > 0).ne(start > 0).sum().item<std::int64_t>(), 0) << "no sign flipped: too easy";
}

TEST(BinarizeLinearLayers, ParametersHoldLatentAlphaAndBetaOnce) {
  DenseNet net;
  const BinarizedLayers binary = binarize_linear_layers(*net, is_head);
  std::map<const void*, int> seen;
  for (const at::Tensor& parameter : net->parameters()) {
    ++seen[parameter.unsafeGetTensorImpl()];
    EXPECT_TRUE(parameter.is_leaf() && parameter.requires_grad());
  }
  for (const auto& [tensor, count] : seen) EXPECT_EQ(count, 1);
  ASSERT_EQ(binary.layers().size(), 3u);
  for (const BinarizedLayers::Layer& layer : binary.layers())
    for (const at::Tensor& tensor : {layer.latent, layer.wscale, layer.wbias})
      EXPECT_EQ(seen.count(tensor.unsafeGetTensorImpl()), 1u) << layer.name;
  EXPECT_EQ(seen.size(), 3u * 3u + 2u);  // and the dense embedding and head
  EXPECT_EQ(parameters_by_name(*net).count("down.wscale"), 1u);
}

TEST(BinarizeLinearLayers, KeptLayersStayDense) {
  DenseNet net;
  const at::Tensor head = net->head->weight;
  binarize_linear_layers(*net, is_head);
  EXPECT_TRUE(net->head->weight.is_same(head));
  EXPECT_EQ(net->head->named_parameters().size(), 1u);
}

TEST(BinarizeLinearLayers, ABiasStays) {
  torch::nn::ModuleList list(Linear(3, 2));
  Linear linear(std::dynamic_pointer_cast<torch::nn::LinearImpl>(list->ptr(0)));
  const at::Tensor bias = linear->bias;
  BinarizedLayers binary = binarize_linear_layers(*list, {}, ops::ScalePattern::kSingle);
  const auto& layer = binary.layers().at(0);
  const at::Tensor x = torch::randn({4, 3});
  const at::Tensor effective = layer.wscale * layer.latent.sign() + layer.wbias;
  // Three fp32 products and two sums per output.
  EXPECT_TRUE(linear(x).allclose(x.matmul(effective.t()) + bias, 1e-6, 1e-6));
  linear(x).sum().backward();
  EXPECT_TRUE(bias.grad().equal(torch::full({2}, 4.0f)));
}

TEST(BinarizeLinearLayers, AnUnpreparedSecondBackwardIsAnError) {
  DenseNet net;
  BinarizedLayers binary = binarize_linear_layers(*net, is_head);
  const at::Tensor tokens = torch::arange(kVocab);
  net->forward(tokens).sum().backward();  // the call itself prepared the first forward
  EXPECT_THROW(net->forward(tokens).sum().backward(), c10::Error);
  binary.prepare();
  net->forward(tokens).sum().backward();
}

TEST(BinarizeLinearLayers, AForwardWithSignsOfBeforeIsAnError) {
  DenseNet net;
  BinarizedLayers binary = binarize_linear_layers(*net, is_head);
  const at::Tensor tokens = torch::arange(kVocab);
  binary.forward(net, tokens).sum().backward();  // backward needs no weight in the layers
  const at::NoGradGuard no_gradients;
  EXPECT_THROW(net->forward(tokens), c10::Error);
  EXPECT_NO_THROW(binary.forward(net, tokens));
}

TEST(BinarizeLinearLayers, SaveAndLoadGoThroughTheModel) {
  DenseNet original, loaded;
  BinarizedLayers binary = binarize_linear_layers(*original, is_head);
  BinarizedLayers loaded_binary = binarize_linear_layers(*loaded, is_head);
  std::stringstream stream;
  torch::save(original, stream);
  torch::load(loaded, stream);
  const at::Tensor tokens = torch::arange(kVocab);
  EXPECT_TRUE(loaded_binary.forward(loaded, tokens).equal(binary.forward(original, tokens)));
  EXPECT_TRUE(loaded_binary.layers()[0].latent.equal(binary.layers()[0].latent));
}

TEST(BinarizeLinearLayers, FollowsAConversionOfTheModule) {
  DenseNet net;
  BinarizedLayers binary = binarize_linear_layers(*net, is_head);
  net->to(at::kDouble);
  EXPECT_EQ(binary.forward(net, torch::arange(kVocab)).scalar_type(), at::kDouble);
}

TEST(BinarizeLinearLayers, ALayerUsedTwiceIsBinarizedOnce) {
  Linear shared = dense(4, 4);
  torch::nn::ModuleList list(shared, shared);
  EXPECT_EQ(binarize_linear_layers(*list).layers().size(), 1u);
}

TEST(BinarizeLinearLayers, RefusesWhatItCannotBinarizeAndChangesNothing) {
  DenseNet net;
  test::expect_error<UsageError>(
      [&] { binarize_linear_layers(*net, [](const std::string&, const auto&) { return true; }); },
      "found no torch::nn::Linear to binarize");
  net->head->weight = net->embed->weight;  // how a head is tied in LibTorch
  test::expect_error<UsageError>([&] { binarize_linear_layers(*net); },
                                 "the weight of head is not its registered parameter", "keep");
  EXPECT_EQ(net->gate->named_parameters().size(), 1u);
  binarize_linear_layers(*net, is_head);
  test::expect_error<UsageError>([&] { binarize_linear_layers(*net, is_head); },
                                 "the weight of gate", "already binarized");
  DenseNet half;
  half->to(at::kBFloat16);
  test::expect_error<UsageError>([&] { binarize_linear_layers(*half, is_head); },
                                 "the weight of gate is BFloat16", "to(torch::kFloat)");
}

}  // namespace
}  // namespace fbi::nn
