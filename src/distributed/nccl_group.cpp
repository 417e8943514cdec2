#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAFunctions.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <utility>

#include "distributed/process_meeting.h"

namespace fbi::distributed {
namespace {

using c10d::ProcessGroupNCCL;
using Clock = std::chrono::steady_clock;

/// LibTorch's watchdog would end the process when a rank is lost. We wait ourselves, and throw.
void switch_off_watchdog() {
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 1);
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 1);
  setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 1);
}

/// A collective on the GPU. wait() keeps the processor until it has run, so that a lost rank is an error here and not a hang in a
/// later synchronization.
class NcclWork final : public Work {
 public:
  NcclWork(std::string operation, ProcessGroupNCCL& group, c10::intrusive_ptr<c10d::Work> work,
           std::chrono::milliseconds timeout, std::function<void()> finish)
      : operation_(std::move(operation)), group_(group), work_(std::move(work)), timeout_(timeout), finish_(std::move(finish)) {}

  void wait() override {
    const auto deadline = Clock::now() + timeout_;
    while (!guarded(operation_, [&] { return work_->isCompleted(); })) {
      if (Clock::now() > deadline) give_up(concat("no answer for ", timeout_.count(), " ms"));
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    if (const auto error = work_->exception()) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& reason) {
        give_up(message_of(reason));
      }
    }
    guarded(operation_, [&] { return work_->wait(); });  // orders the current stream behind it
    if (finish_) std::exchange(finish_, {})();
  }

 private:
  /// Kernels of NCCL that wait for a lost rank would keep the GPU, and the destructors, forever.
  [[noreturn]] void give_up(const std::string& reason) {
    group_.abort();
    throw PeerError(concat(operation_, ": a rank was lost or stands still: ", reason));
  }

  std::string operation_;
  ProcessGroupNCCL& group_;
  c10::intrusive_ptr<c10d::Work> work_;
  std::chrono::milliseconds timeout_;
  std::function<void()> finish_;
};

c10d::ReduceOp reduce_op(Reduce op) {
  switch (op) {
    case Reduce::kMax: return c10d::ReduceOp::MAX;
    case Reduce::kMin: return c10d::ReduceOp::MIN;
    case Reduce::kSum: break;
  }
  return c10d::ReduceOp::SUM;
}

class NcclRank final : public Communicator {
 public:
  NcclRank(StorePointer store, c10::intrusive_ptr<ProcessGroupNCCL> group, at::Device device, std::chrono::milliseconds timeout)
      : store_(std::move(store)), group_(std::move(group)), device_(device), timeout_(timeout) {}

  int rank() const override { return group_->getRank(); }
  int size() const override { return group_->getSize(); }
  at::Device device() const override { return device_; }
  std::string description() const override {
    return concat("process ", rank(), " of ", size(), " over NCCL on ", device_.str());
  }
  void barrier() override {
    at::Tensor token = at::zeros({1}, at::TensorOptions().dtype(at::kInt).device(device_));
    start_all_reduce(token, Reduce::kSum)->wait();
  }

 private:
  std::unique_ptr<Work> start_all_reduce(at::Tensor& tensor, Reduce op) override {
    at::Tensor moved = tensor.to(device_);
    std::vector<at::Tensor> tensors = {moved};
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    return start("all_reduce", [&] { return group_->allreduce(tensors, options); }, tensor, moved);
  }

  std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    at::Tensor received = output.to(device_).view({-1}), sent = input.to(device_).view({-1});
    return start("reduce_scatter", [&] { return group_->_reduce_scatter_base(received, sent); }, output, received);
  }

  std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    at::Tensor received = output.to(device_).view({-1}), sent = input.to(device_).view({-1});
    return start("all_gather", [&] { return group_->_allgather_base(received, sent); }, output, received);
  }

  std::unique_ptr<Work> start_broadcast(at::Tensor& tensor, int root) override {
    at::Tensor moved = tensor.to(device_);
    std::vector<at::Tensor> tensors = {moved};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return start("broadcast", [&] { return group_->broadcast(tensors, options); }, tensor, moved);
  }

  /// `moved` is `result` itself or, for a tensor on the CPU, its copy on the GPU.
  template <class Call>
  std::unique_ptr<Work> start(const char* operation, Call&& call, const at::Tensor& result, const at::Tensor& moved) {
    const std::string name = concat(operation, " on rank ", rank());
    std::function<void()> finish;
    if (result.device() != device_) finish = [result, moved]() mutable { result.copy_(moved.view(result.sizes())); };
    return std::make_unique<NcclWork>(name, *group_, guarded(name, call), timeout_, std::move(finish));
  }

  StorePointer store_;  ///< rank 0 serves it to the others
  c10::intrusive_ptr<ProcessGroupNCCL> group_;
  at::Device device_;
  std::chrono::milliseconds timeout_;
};

}  // namespace

bool has_nccl() {
  return true;
}

std::unique_ptr<Communicator> make_nccl_group(const Rendezvous& rendezvous, at::Device device, const ProcessGroupOptions& options) {
  const QuietLibTorch quiet;
  switch_off_watchdog();
  c10::cuda::set_device(device.index());
  const StorePointer store = meet(rendezvous, options);
  auto group = guarded("connecting ranks", [&] {
    auto settings = ProcessGroupNCCL::Options::create();
    settings->timeout = options.timeout;
    return c10::make_intrusive<ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>("nccl", store), rendezvous.rank,
                                                 rendezvous.world_size, settings);
  });
  return std::make_unique<NcclRank>(store, std::move(group), device, options.timeout);
}

}  // namespace fbi::distributed
