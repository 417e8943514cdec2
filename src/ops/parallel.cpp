#include "fbi/ops/parallel.h"

#include <ATen/Parallel.h>

#include <cstdlib>

#include "fbi/core/system.h"

namespace fbi::ops {
namespace {

class TorchParallelFor final : public ParallelFor {
 public:
  int threads() const override { return at::get_num_threads(); }
  void run(std::int64_t begin, std::int64_t end, std::int64_t grain, const Body& body) override {
    at::parallel_for(begin, end, grain, body);
  }
};

}  // namespace

ParallelFor& torch_parallel_for() {
  static TorchParallelFor instance;
  return instance;
}

void set_threads(int threads) {
  if (threads > 0)
    at::set_num_threads(threads);
  else if (std::getenv("OMP_NUM_THREADS") == nullptr)  // LibTorch has read that variable itself
    at::set_num_threads(usable_processors());
}

}  // namespace fbi::ops
