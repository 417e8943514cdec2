#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <utility>

#include "distributed/finished.h"
#include "distributed/process_meeting.h"
#include "fbi/core/error.h"
#include "fbi/distributed/process_group.h"

namespace fbi::distributed {
namespace {

// ProcessGroupNCCL::Options holds a struct of nccl.h that grows with the version: it is made here
// and read by LibTorch 2.11, which was built with this one.
static_assert(NCCL_MAJOR == 2 && NCCL_MINOR == 28,
              "nccl.h is of another version than LibTorch's: set FBI_NCCL_INCLUDE_DIR to the one "
              "of NCCL 2.28");

using c10d::ProcessGroupNCCL;
using Clock = std::chrono::steady_clock;

/// LibTorch's watchdog would end the process when a rank is lost, or when a kernel fails, and sleep
/// for a minute before; it still runs, but only looks. We wait ourselves, and throw.
void disarm_watchdog() {
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 1);
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 1);
  setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 1);
  setenv("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0", 1);
  setenv("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "0", 1);
}

/// What a rank and its collectives under way share.
struct Group {
  c10::intrusive_ptr<ProcessGroupNCCL> nccl;
  std::shared_ptr<Pulse> pulse;
  std::chrono::milliseconds timeout;
  int under_way = 0;
  bool broken = false;

  /// Kernels of NCCL that wait for a lost rank would keep the GPU, and the destructors, forever.
  void abort() noexcept {
    broken = true;
    try {
      nccl->abort();
    } catch (const std::exception&) {  // the error that led here is the one to report
    }
  }
};

/// A collective on the GPU. wait() keeps the processor until it has run, so that a lost rank is an
/// error here and not a hang in a later synchronization.
class NcclWork final : public Work {
 public:
  NcclWork(std::string operation, std::shared_ptr<Group> group, c10::intrusive_ptr<c10d::Work> work,
           std::function<void()> finish)
      : operation_(std::move(operation)),
        group_(std::move(group)),
        work_(std::move(work)),
        finish_(std::move(finish)) {
    ++group_->under_way;
  }

  void wait() override {
    wait_for_gpu();
    if (const auto error = work_->exception()) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& reason) {
        give_up(message_of(reason));
      }
    }
    // Orders the current stream behind it.
    guarded(*group_->pulse, operation_, [&] { return work_->wait(); });
    --group_->under_way;
    if (finish_) std::exchange(finish_, {})();
  }

 private:
  /// NCCL notices a lost rank only where a network lies between: ranks of one machine would wait
  /// for it until the time-out.
  void wait_for_gpu() {
    const auto start = Clock::now();
    bool patient = true;
    while (!guarded(*group_->pulse, operation_, [&] { return work_->isCompleted(); })) {
      const auto waited = Clock::now() - start;
      if (waited > group_->timeout)
        give_up(concat("no answer for ", group_->timeout.count(), " ms"));
      patient = waited < kPatience;
      if (!patient && !group_->pulse->long_missing().empty()) give_up("it gives no sign of life");
      std::this_thread::sleep_for(patient ? std::chrono::microseconds(20) : Pulse::kAskAgain);
    }
    if (!patient) group_->pulse->stop_looking();
  }

  [[noreturn]] void give_up(const std::string& reason) {
    try {
      throw_lost(*group_->pulse, operation_, reason);
    } catch (const PeerError&) {
      group_->abort();
      throw;
    }
  }

  std::string operation_;
  std::shared_ptr<Group> group_;
  c10::intrusive_ptr<c10d::Work> work_;
  std::function<void()> finish_;
};

class NcclRank final : public Communicator {
 public:
  NcclRank(StorePointer store, std::shared_ptr<Group> group, at::Device device)
      : store_(std::move(store)), group_(std::move(group)), device_(device) {}

  /// The end of a run waits for the other ranks, so that none is cut off in its last collective; an
  /// end by an error must not.
  ~NcclRank() override {
    if (group_->broken) return;
    if (std::uncaught_exceptions() > exceptions_before_ || group_->under_way > 0) {
      group_->pulse->leave();
      group_->abort();
      return;
    }
    try {
      group_->nccl->shutdown();
    } catch (const std::exception&) {
      group_->abort();
    }
  }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  int rank() const override { return group_->nccl->getRank(); }
  int size() const override { return group_->nccl->getSize(); }
  at::Device device() const override { return device_; }
  std::string description() const override {
    return concat("process ", rank(), " of ", size(), " over NCCL on ", device_.str());
  }
  void barrier() override {
    at::Tensor token = at::zeros({1}, at::TensorOptions().dtype(at::kInt).device(device_));
    start_all_reduce(token, Reduce::kSum)->wait();
  }
  void give_up(const std::string& reason) override { group_->pulse->leave(reason); }

 private:
  std::unique_ptr<Work> start_all_reduce(at::Tensor& tensor, Reduce op) override {
    at::Tensor moved = tensor.to(device_);
    std::vector<at::Tensor> tensors = {moved};
    c10d::AllreduceOptions options;
    options.reduceOp = op == Reduce::kMax ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    return start(
        "all_reduce", [&] { return group_->nccl->allreduce(tensors, options); }, tensor, moved);
  }

  std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    at::Tensor received = output.to(device_).view({-1}), sent = input.to(device_).view({-1});
    return start(
        "reduce_scatter", [&] { return group_->nccl->_reduce_scatter_base(received, sent); },
        output, received);
  }

  /// `input` may be this rank's part of `output`: that is NCCL's form in place.
  std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    at::Tensor received = output.to(device_).view({-1}), sent = input.to(device_).view({-1});
    return start(
        "all_gather", [&] { return group_->nccl->_allgather_base(received, sent); }, output,
        received);
  }

  /// `moved` is `result` itself or, for a tensor on the CPU, its copy on the GPU.
  template <class Call>
  std::unique_ptr<Work> start(const char* operation, Call&& call, const at::Tensor& result,
                              const at::Tensor& moved) {
    if (result.numel() == 0) return std::make_unique<Finished>();
    const std::string name = concat(operation, " on rank ", rank());
    std::function<void()> finish;
    if (result.device() != device_)
      finish = [result, moved]() mutable { result.copy_(moved.view(result.sizes())); };
    group_->pulse->count_collective();
    return std::make_unique<NcclWork>(name, group_, guarded(*group_->pulse, name, call),
                                      std::move(finish));
  }

  QuietLibTorch quiet_;
  StorePointer store_;  ///< rank 0 serves it to the others
  std::shared_ptr<Group> group_;
  at::Device device_;
  int exceptions_before_ = std::uncaught_exceptions();
};

/// By which ranks on one machine know that they were given the same GPU, whatever number each has
/// for it.
std::string bus_address(at::Device device) {
  char text[32] = {};
  return cudaDeviceGetPCIBusId(text, sizeof(text), device.index()) == cudaSuccess ? text : "";
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_group(const Rendezvous& rendezvous, at::Device device,
                                              const ProcessGroupOptions& options) {
  const QuietLibTorch quiet;
  disarm_watchdog();
  c10::cuda::set_device(device.index());
  at::zeros({1}, device);  // a GPU without room fails here, before others wait for this rank
  const Met met = meet(rendezvous, options, bus_address(device));
  auto nccl = guarded(*met.pulse, concat("connecting rank ", rendezvous.rank), [&] {
    auto settings = ProcessGroupNCCL::Options::create();
    settings->timeout = options.timeout;
    return c10::make_intrusive<ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("nccl", met.store), rendezvous.rank,
        rendezvous.world_size, settings);
  });
  auto group = std::make_shared<Group>(Group{std::move(nccl), met.pulse, options.timeout});
  auto result = std::make_unique<NcclRank>(met.store, std::move(group), device);
  result->barrier();  // the first collective connects
  return result;
}

}  // namespace fbi::distributed
