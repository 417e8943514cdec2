#include <ATen/ops/empty.h>

#include <chrono>
#include <functional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <utility>

#include "distributed/finished.h"
#include "distributed/local_address.h"
#include "distributed/process_meeting.h"
#include "distributed/rank_order.h"
#include "fbi/core/error.h"
#include "fbi/distributed/process_group.h"

namespace fbi::distributed {
namespace {

using c10d::ProcessGroupGloo;

/// What a rank and its collectives under way share.
struct GlooRanks {
  Met met;
  c10::intrusive_ptr<ProcessGroupGloo> group;

  /// Its threads wait for a rank that never answers, and its destructor for them until the
  /// time-out: they end with the process.
  void abandon() { group.release(); }
};

/// A collective in the background; `finish` turns what arrived into the result.
class GlooWork final : public Work {
 public:
  GlooWork(std::string operation, std::shared_ptr<GlooRanks> ranks,
           c10::intrusive_ptr<c10d::Work> work, std::function<void()> finish)
      : operation_(std::move(operation)),
        ranks_(std::move(ranks)),
        work_(std::move(work)),
        finish_(std::move(finish)) {}
  void wait() override {
    if (!done_within(kPatience)) watch();
    guarded(*ranks_->met.pulse, operation_, [&] { return work_->wait(); });
    if (finish_) std::exchange(finish_, {})();
  }

 private:
  /// False when the time is over.
  bool done_within(std::chrono::milliseconds time) {
    try {
      return work_->wait(time);
    } catch (const std::exception&) {  // the time is over, or it has failed
      return work_->isCompleted();
    }
  }

  void watch() {
    Pulse& pulse = *ranks_->met.pulse;
    while (!work_->isCompleted()) {
      if (!pulse.long_missing().empty()) {
        ranks_->abandon();
        throw_lost(pulse, operation_, "it gives no sign of life");
      }
      std::this_thread::sleep_for(Pulse::kAskAgain);
    }
    pulse.stop_looking();
  }

  std::string operation_;
  std::shared_ptr<GlooRanks> ranks_;
  c10::intrusive_ptr<c10d::Work> work_;
  std::function<void()> finish_;
};

class GlooRank final : public Communicator {
 public:
  GlooRank(Met met, c10::intrusive_ptr<ProcessGroupGloo> group)
      : rank_(group->getRank()),
        size_(group->getSize()),
        ranks_(std::make_shared<GlooRanks>(GlooRanks{std::move(met), std::move(group)})) {}

  ~GlooRank() override { pulse().leave(); }
  GlooRank(const GlooRank&) = delete;
  GlooRank& operator=(const GlooRank&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string description() const override {
    return concat("process ", rank(), " of ", size(), " over Gloo");
  }

  std::unique_ptr<Work> start_all_reduce(at::Tensor& tensor, Reduce op) override {
    require_cpu(tensor);
    if (tensor.numel() == 0) return std::make_unique<Finished>();
    if (op == Reduce::kSum) return sum_in_rank_order(tensor);
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    std::vector<at::Tensor> tensors = {tensor};
    return start("all_reduce", [&] { return group().allreduce(tensors, options); });
  }

  std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    require_sizes("reduce_scatter", input, output);
    if (input.numel() == 0) return std::make_unique<Finished>();
    at::Tensor sent = input.view({-1});
    at::Tensor received = at::empty({size(), output.numel()}, input.options());
    at::Tensor flat = received.view({-1});
    std::vector<std::int64_t> equal_parts;
    return start(
        "reduce_scatter",
        [&] { return group().alltoall_base(flat, sent, equal_parts, equal_parts); },
        [received, output]() mutable {
          output.copy_(reduce_in_rank_order(received.unbind(0), Reduce::kSum).view(output.sizes()));
        });
  }

  std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    require_sizes("all_gather", output, input);
    if (input.numel() == 0) return std::make_unique<Finished>();
    // `input` may be a part of `output`, which Gloo does not expect.
    at::Tensor sent = input.is_alias_of(output) ? input.clone().view({-1}) : input.view({-1});
    at::Tensor received = output.view({-1});
    return start("all_gather", [&] { return group()._allgather_base(received, sent); });
  }

  void barrier() override {
    start("barrier", [&] { return group().barrier(); })->wait();
  }
  void give_up(const std::string& reason) override { pulse().leave(reason); }

 private:
  template <class Start>
  std::unique_ptr<Work> start(const char* operation, Start&& call,
                              std::function<void()> finish = {}) {
    const std::string name = concat(operation, " on rank ", rank());
    if (!ranks_->group) throw PeerError(concat(name, ": a rank was lost before"));
    pulse().count_collective();
    return std::make_unique<GlooWork>(name, ranks_, guarded(pulse(), name, call),
                                      std::move(finish));
  }

  Pulse& pulse() const { return *ranks_->met.pulse; }
  ProcessGroupGloo& group() const { return *ranks_->group; }

  std::unique_ptr<Work> sum_in_rank_order(at::Tensor& tensor) {
    at::Tensor all = at::empty({size(), tensor.numel()}, tensor.options());
    at::Tensor received = all.view({-1}), sent = tensor.view({-1});
    return start(
        "all_reduce", [&] { return group()._allgather_base(received, sent); },
        [all, tensor]() mutable {
          tensor.copy_(reduce_in_rank_order(all.unbind(0), Reduce::kSum).view(tensor.sizes()));
        });
  }

  static void require_cpu(const at::Tensor& tensor) {
    if (tensor.device().is_cpu() && tensor.is_contiguous()) return;
    throw UsageError(concat("Gloo: expected a contiguous tensor on the CPU, found one on ",
                            tensor.device().str()));
  }
  void require_sizes(const char* operation, const at::Tensor& large,
                     const at::Tensor& small) const {
    require_cpu(large);
    require_cpu(small);
    if (large.numel() == small.numel() * size() && large.scalar_type() == small.scalar_type())
      return;
    throw UsageError(concat(operation, " over ", size(), " ranks: ", large.numel(), " x ",
                            c10::toString(large.scalar_type()), " is not ", size(), " times ",
                            small.numel(), " x ", c10::toString(small.scalar_type())));
  }

  QuietLibTorch quiet_;
  int rank_, size_;
  std::shared_ptr<GlooRanks> ranks_;
};

c10::intrusive_ptr<ProcessGroupGloo> connect(const Met& met, const Rendezvous& rendezvous,
                                             const ProcessGroupOptions& options) {
  auto settings = ProcessGroupGloo::Options::create(options.start_timeout);
  settings->devices.push_back(
      ProcessGroupGloo::createDeviceForHostname(local_address_towards(rendezvous.master_addr)));
  return guarded(*met.pulse, concat("connecting rank ", rendezvous.rank), [&] {
    auto group = c10::make_intrusive<ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>("gloo", met.store), rendezvous.rank,
        rendezvous.world_size, settings);
    group->setTimeout(options.timeout);
    return group;
  });
}

}  // namespace

bool has_gloo() {
  return true;
}

std::unique_ptr<Communicator> make_gloo_group(const Rendezvous& rendezvous,
                                              const ProcessGroupOptions& options) {
  if (rendezvous.world_size == 1) return make_single_rank();
  const QuietLibTorch quiet;
  const Met met = meet(rendezvous, options);
  return std::make_unique<GlooRank>(met, connect(met, rendezvous, options));
}

}  // namespace fbi::distributed
