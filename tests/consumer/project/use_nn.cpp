// Runs a binarized layer forward and backward.
#include <cstdio>

#include "fbi/nn/fbi_linear.h"

int main() {
  fbi::nn::FbiLinear layer(4, 3);
  const at::Tensor loss = layer(torch::ones({2, 4})).sum();
  loss.backward();
  // d(loss)/d(wbias): one 1 for each of 2 inputs and 3 outputs.
  const bool right = layer->wbias.grad().equal(torch::full({1, 4}, 6.0f));
  std::printf("gradient %s\n", right ? "right" : "wrong");
  return right ? 0 : 1;
}
