#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace fbi::distributed {

/// Handle of a collective that was started; wait() returns when its output may be used. Throws PeerError.
class Work {
 public:
  virtual ~Work() = default;
  virtual void wait() = 0;
};

enum class Reduce { kSum, kMax, kMin };

/// Collectives of one group of ranks. Passed in everywhere, never global. All ranks call the same operations in the same
/// order. Tensors are contiguous; row counts that differ over ranks are padded by the caller (ShardPlan).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string description() const = 0;
  /// Where tensors of collectives must lie.
  virtual at::Device device() const { return at::kCPU; }
  /// In place on every rank.
  virtual std::unique_ptr<Work> all_reduce(at::Tensor& tensor, Reduce op) = 0;
  /// output [n] = sum over ranks of their input [size * n], part `rank`.
  virtual std::unique_ptr<Work> reduce_scatter(at::Tensor& output, const at::Tensor& input) = 0;
  /// output [size * n] = the inputs [n] of all ranks in rank order.
  virtual std::unique_ptr<Work> all_gather(at::Tensor& output, const at::Tensor& input) = 0;
  virtual std::unique_ptr<Work> broadcast(at::Tensor& tensor, int root) = 0;
  virtual void barrier() = 0;
};

/// The group of one rank: every collective is the identity.
std::unique_ptr<Communicator> make_single_rank();

/// A group of `size` ranks within this process, one per thread (tests). Collectives are finished when they return and
/// reduce in rank order, so results don't depend on timing. A rank whose communicator is destroyed makes all that wait
/// for it throw PeerError; ranks that call different operations all throw UsageError.
std::vector<std::unique_ptr<Communicator>> make_thread_group(int size);

}  // namespace fbi::distributed
