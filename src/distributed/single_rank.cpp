#include "distributed/finished.h"
#include "fbi/core/error.h"
#include "fbi/distributed/communicator.h"

namespace fbi::distributed {
namespace {

/// Copies unless both are the same memory.
std::unique_ptr<Work> copy(const char* operation, at::Tensor& output, const at::Tensor& input) {
  if (output.numel() != input.numel() || output.scalar_type() != input.scalar_type()) {
    throw UsageError(concat(operation,
                            " on one rank: expected input and output of one size and dtype, found ",
                            input.numel(), " x ", c10::toString(input.scalar_type()), " and ",
                            output.numel(), " x ", c10::toString(output.scalar_type())));
  }
  if (output.data_ptr() != input.data_ptr()) output.copy_(input.view(output.sizes()));
  return std::make_unique<Finished>();
}

class SingleRank final : public Communicator {
 public:
  explicit SingleRank(at::Device device) : device_(device) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string description() const override { return "one rank"; }
  at::Device device() const override { return device_; }
  std::unique_ptr<Work> start_all_reduce(at::Tensor&, Reduce) override {
    return std::make_unique<Finished>();
  }
  std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    return copy("reduce_scatter", output, input);
  }
  std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    return copy("all_gather", output, input);
  }
  void barrier() override {}

 private:
  at::Device device_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_rank(at::Device device) {
  return std::make_unique<SingleRank>(device);
}

}  // namespace fbi::distributed
