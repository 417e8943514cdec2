#pragma once

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <utility>
#include <vector>

/// As much of LibTorch's class over NCCL as src/distributed/nccl_group.cpp uses, for emulated GPUs
/// in processes of their own: what the ranks send passes through the store. Until a collective has
/// completed, its result holds NaN.
#define NCCL_MAJOR 2
#define NCCL_MINOR 28

namespace c10d {

class ProcessGroupNCCL : public torch::CustomClassHolder {
 public:
  struct Options : torch::CustomClassHolder {
    std::chrono::milliseconds timeout{600'000};
    static c10::intrusive_ptr<Options> create() { return c10::make_intrusive<Options>(); }
  };

  ProcessGroupNCCL(c10::intrusive_ptr<Store> store, int rank, int size, c10::intrusive_ptr<Options>)
      : store_(std::move(store)), rank_(rank), size_(size) {}

  int getRank() const { return rank_; }
  int getSize() const { return size_; }
  c10::intrusive_ptr<Work> allreduce(std::vector<at::Tensor>& tensors,
                                     const AllreduceOptions& options);
  c10::intrusive_ptr<Work> _reduce_scatter_base(at::Tensor& output, at::Tensor& input);
  c10::intrusive_ptr<Work> _allgather_base(at::Tensor& output, at::Tensor& input);
  void abort() {}
  void shutdown() {}

 private:
  class Exchange;
  std::string send(const at::Tensor& input);

  c10::intrusive_ptr<Store> store_;
  int rank_, size_;
  std::int64_t collectives_ = 0;
};

}  // namespace c10d
