// Binarizes the hidden layers of a small LibTorch classifier in the two ways fbi offers, trains
// both with torch::optim, and shows that they are the same model.
//
//   cmake --build build/release --target binarize_a_model
//   build/release/bin/binarize_a_model
//
// Expected after a few seconds, about (processors round differently, and signs that flip enlarge
// that):
//   step    FbiLinear   binarized Linear
//      0         1.13               1.13
//    400         0.01               0.01
//   three spiral arms told apart: 100 % with FbiLinear, 100 % with binarized Linear
// Exit status 0: both tell the arms apart and agree.

#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numbers>

#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>

#include "fbi/nn/binarize_layers.h"
#include "fbi/nn/fbi_linear.h"

namespace {

using fbi::nn::FbiLinear;
using torch::nn::Linear;

constexpr std::int64_t kPoints = 768, kArms = 3, kWidth = 64;
constexpr int kSteps = 400;
constexpr double kLearningRate = 3e-3;

/// A residual classifier with typed members. Hidden = FbiLinear is the first way: a model of your
/// own that uses FbiLinear where it would use Linear. Hidden = Linear is the model that exists,
/// which the second way converts.
template <class Hidden>
struct SpiralNet : torch::nn::Module {
  explicit SpiralNet(const std::function<Hidden()>& make_hidden)
      : hidden1(make_hidden()), hidden2(make_hidden()) {
    register_module("input", input);
    register_module("hidden1", hidden1);
    register_module("hidden2", hidden2);
    register_module("output", output);
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h1 = input(x).relu();
    const at::Tensor h2 = h1 + hidden1(h1).relu();
    return output(h2 + hidden2(h2).relu());
  }
  Linear input{2, kWidth};
  Hidden hidden1, hidden2;
  Linear output{kWidth, kArms};
};

struct Data {
  at::Tensor points, arms;  // [N, 2], [N]
};

/// Points on three spiral arms, no two classes separable by a line.
Data spirals() {
  const at::Tensor arms = torch::arange(kPoints) % kArms;
  const at::Tensor radius = torch::linspace(0.15, 1.0, kPoints);
  const at::Tensor angle = radius * 9.0 + arms * (2.0 * std::numbers::pi / kArms);
  return {torch::stack({radius * angle.cos(), radius * angle.sin()}, 1) * 3.0, arms};
}

/// One step of AdamW; returns the loss. The rate falls to 0: with a constant one signs would flip
/// until the end, and the last loss would be a matter of chance.
double train_step(torch::optim::AdamW& optimizer, int step, const at::Tensor& logits,
                  const at::Tensor& arms) {
  for (auto& group : optimizer.param_groups())
    group.options().set_lr(kLearningRate * (kSteps - step) / kSteps);
  optimizer.zero_grad();
  const at::Tensor loss = at::cross_entropy_loss(logits, arms);
  loss.backward();
  optimizer.step();
  return loss.item<double>();
}

double percent_right(const at::Tensor& logits, const at::Tensor& arms) {
  return 100.0 * logits.argmax(1).eq(arms).to(torch::kDouble).mean().item<double>();
}

}  // namespace

int main() {
  torch::manual_seed(1);
  const Data data = spirals();
  const auto net = std::make_shared<SpiralNet<FbiLinear>>([] { return FbiLinear(kWidth, kWidth); });
  const auto dense = std::make_shared<SpiralNet<Linear>>(
      [] { return Linear(torch::nn::LinearOptions(kWidth, kWidth).bias(false)); });

  // The dense model starts from the same weights. Input and output layer stay dense, as embedding
  // and head do in FBI-LLM.
  {
    torch::NoGradGuard no_grad;
    const auto values = net->named_parameters();
    for (auto& entry : dense->named_parameters()) entry.value().copy_(values[entry.key()]);
  }
  const auto keep = [](const std::string& name, const torch::nn::LinearImpl&) {
    return name == "input" || name == "output";
  };
  fbi::nn::BinarizedLayers binarized = fbi::nn::binarize_linear_layers(*dense, keep);

  // Optimizers come after the conversion, so that they see the scales too.
  const auto options = torch::optim::AdamWOptions(kLearningRate).weight_decay(0.01);
  torch::optim::AdamW net_optimizer(net->parameters(), options);
  torch::optim::AdamW dense_optimizer(dense->parameters(), options);

  double net_loss = 0, dense_loss = 0;
  std::printf("step    FbiLinear   binarized Linear\n");
  for (int step = 0; step <= kSteps; ++step) {
    net_loss = train_step(net_optimizer, step, net->forward(data.points), data.arms);
    // `forward` of the handle puts fresh binarized weights into the layers, then calls the model.
    dense_loss =
        train_step(dense_optimizer, step, binarized.forward(dense, data.points), data.arms);
    if (step % 100 == 0) std::printf("%4d %12.4f %18.4f\n", step, net_loss, dense_loss);
  }

  torch::NoGradGuard no_grad;
  const double net_right = percent_right(net->forward(data.points), data.arms);
  const double dense_right = percent_right(binarized.forward(dense, data.points), data.arms);
  std::printf(
      "three spiral arms told apart: %.0f %% with FbiLinear, %.0f %% with binarized Linear\n",
      net_right, dense_right);
  const bool same = std::abs(net_loss - dense_loss) <= 1e-6 * net_loss;
  return net_right > 98 && dense_right > 98 && same ? 0 : 1;
}
