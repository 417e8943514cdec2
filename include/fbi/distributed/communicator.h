#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/distributed/traffic.h"

namespace fbi::distributed {

/// Handle of a collective that was started; wait() returns when its output may be used. Throws
/// PeerError.
class Work {
 public:
  virtual ~Work() = default;
  virtual void wait() = 0;
};

enum class Reduce { kSum, kMax };

/// Collectives of one group of ranks. Passed in everywhere, never global. All ranks call the same
/// operations in the same order. Tensors are contiguous; row counts that differ over ranks are
/// padded by the caller (ShardPlan).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string description() const = 0;
  /// Where tensors of collectives must lie.
  virtual at::Device device() const { return at::kCPU; }
  /// In place on every rank.
  std::unique_ptr<Work> all_reduce(at::Tensor& tensor, Reduce op,
                                   Payload payload = Payload::kControl);
  /// output [n] = sum over ranks of their input [size * n], part `rank`.
  std::unique_ptr<Work> reduce_scatter(at::Tensor& output, const at::Tensor& input,
                                       Payload payload = Payload::kControl);
  /// output [size * n] = the inputs [n] of all ranks in rank order.
  std::unique_ptr<Work> all_gather(at::Tensor& output, const at::Tensor& input,
                                   Payload payload = Payload::kControl);
  virtual void barrier() = 0;
  /// This rank ends for a reason of its own, one line, which the others then give for what they
  /// miss.
  virtual void give_up(const std::string&) {}

  /// Since the communicator was made.
  const Traffic& traffic() const { return traffic_; }

 private:
  virtual std::unique_ptr<Work> start_all_reduce(at::Tensor& tensor, Reduce op) = 0;
  virtual std::unique_ptr<Work> start_reduce_scatter(at::Tensor& output,
                                                     const at::Tensor& input) = 0;
  virtual std::unique_ptr<Work> start_all_gather(at::Tensor& output, const at::Tensor& input) = 0;
  void count(Payload payload, std::int64_t bytes) {
    traffic_[static_cast<std::size_t>(payload)] += bytes;
  }

  Traffic traffic_{};
};

/// The group of one rank, computing on `device`: every collective is the identity.
std::unique_ptr<Communicator> make_single_rank(at::Device device = at::kCPU);

}  // namespace fbi::distributed
