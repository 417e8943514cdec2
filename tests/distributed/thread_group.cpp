#include "distributed/thread_group.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "distributed/finished.h"
#include "distributed/rank_order.h"
#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

/// What one rank brings to a collective. Ranks must agree in all but the tensor's values.
struct Call {
  std::string operation;  ///< with everything that has to be equal: "all_gather, 12 x Float"
  at::Tensor tensor;
};

/// The meeting point of all ranks: each leaves its call, everyone sees all of them, no one goes on
/// before all have seen them.
class Meeting {
 public:
  explicit Meeting(int size) : calls_(size) {}
  int size() const { return static_cast<int>(calls_.size()); }

  /// `use(calls)` runs on every rank between two barriers; it may read all tensors and write none
  /// of them.
  template <class Use>
  void meet(int rank, Call call, Use&& use) {
    calls_[rank] = std::move(call);
    wait_for_all();
    const std::string mismatch = find_mismatch();
    if (mismatch.empty()) use(std::as_const(calls_));
    wait_for_all();
    if (!mismatch.empty()) throw UsageError(mismatch);
  }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    if (!left_) left_ = rank;
    changed_.notify_all();
  }

 private:
  std::string find_mismatch() const {
    for (int rank = 1; rank < size(); ++rank) {
      if (calls_[rank].operation == calls_[0].operation) continue;
      return concat("ranks call different collectives: rank 0 ", calls_[0].operation, ", rank ",
                    rank, " ", calls_[rank].operation);
    }
    return {};
  }

  void wait_for_all() {
    std::unique_lock lock(mutex_);
    const std::uint64_t round = round_;
    if (++arrived_ == size()) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return round_ != round || left_; });
    if (round_ == round) throw PeerError(concat("rank ", *left_, " left the group of threads"));
  }

  std::vector<Call> calls_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  std::uint64_t round_ = 0;
  std::optional<int> left_;
};

std::string size_text(const at::Tensor& tensor) {
  return concat(tensor.numel(), " x ", c10::toString(tensor.scalar_type()));
}

class ThreadRank final : public Communicator {
 public:
  ThreadRank(std::shared_ptr<Meeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}
  ~ThreadRank() override { meeting_->leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }
  std::string description() const override { return concat("thread ", rank_, " of ", size()); }

  std::unique_ptr<Work> start_all_reduce(at::Tensor& tensor, Reduce op) override {
    at::Tensor result;
    meeting_->meet(rank_,
                   {concat("all_reduce ", static_cast<int>(op), ", ", size_text(tensor)), tensor},
                   [&](const std::vector<Call>& calls) {
                     result = reduce_in_rank_order(tensors_of(calls), op);
                   });
    tensor.copy_(result.view(tensor.sizes()));
    return std::make_unique<Finished>();
  }

  std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output, const at::Tensor& input) override {
    require_sizes("reduce_scatter", input, output);
    at::Tensor result;
    meeting_->meet(rank_, {concat("reduce_scatter, ", size_text(input)), input},
                   [&](const std::vector<Call>& calls) {
                     std::vector<at::Tensor> parts = tensors_of(calls);
                     for (at::Tensor& part : parts) part = block(part, rank_);
                     result = reduce_in_rank_order(parts, Reduce::kSum);
                   });
    output.copy_(result.view(output.sizes()));
    return std::make_unique<Finished>();
  }

  std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) override {
    require_sizes("all_gather", output, input);
    at::Tensor flat = output.view({-1});
    meeting_->meet(rank_, {concat("all_gather, ", size_text(input)), input},
                   [&](const std::vector<Call>& calls) {
                     for (int rank = 0; rank < size(); ++rank) {
                       const at::Tensor& source = calls[rank].tensor;
                       at::Tensor target = block(flat, rank);
                       if (source.data_ptr() != target.data_ptr()) target.copy_(source.view({-1}));
                     }
                   });
    return std::make_unique<Finished>();
  }

  void barrier() override {
    meeting_->meet(rank_, {"barrier", {}}, [](const std::vector<Call>&) {});
  }

 private:
  static std::vector<at::Tensor> tensors_of(const std::vector<Call>& calls) {
    std::vector<at::Tensor> tensors;
    for (const Call& call : calls) tensors.push_back(call.tensor.view({-1}));
    return tensors;
  }
  /// Part `rank` of the `size()` equal parts of a flat tensor.
  at::Tensor block(const at::Tensor& flat, int rank) const {
    const std::int64_t length = flat.numel() / size();
    return flat.narrow(0, rank * length, length);
  }
  void require_sizes(const char* operation, const at::Tensor& large,
                     const at::Tensor& small) const {
    if (large.numel() == small.numel() * size() && large.scalar_type() == small.scalar_type())
      return;
    throw UsageError(concat(operation, " over ", size(), " ranks: ", size_text(large), " is not ",
                            size(), " times ", size_text(small)));
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_group(int size) {
  if (size < 1) throw UsageError(concat("a group needs at least 1 rank, found ", size));
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadRank>(meeting, rank));
  }
  return ranks;
}

}  // namespace fbi::distributed
