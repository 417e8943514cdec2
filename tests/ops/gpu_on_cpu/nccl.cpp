#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <functional>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace c10d {
namespace {

using Parts = std::vector<at::Tensor>;  // of all ranks, on the CPU

void check_input(const at::Tensor& x) {
  TORCH_CHECK(x.is_cuda() && x.is_contiguous(), "emulated NCCL: tensors of the GPU, in one piece");
}
void fill_with_nan(const at::Tensor& x) {
  TORCH_CHECK(cudaMemset(x.mutable_data_ptr(), 0xFF, x.nbytes()) == cudaSuccess);
}

at::Tensor reduced(const Parts& parts, const ReduceOp& op) {
  at::Tensor result = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    result = op == ReduceOp::MAX ? at::maximum(result, parts[i]) : result + parts[i];
  }
  return result;
}

}  // namespace

/// Complete when all ranks have sent theirs.
class ProcessGroupNCCL::Exchange final : public Work {
 public:
  Exchange(c10::intrusive_ptr<Store> store, std::string name, int size, at::Tensor sent,
           at::Tensor output, std::function<at::Tensor(const Parts&)> result)
      : store_(std::move(store)),
        like_(std::move(sent)),
        output_(std::move(output)),
        result_(std::move(result)) {
    for (int rank = 0; rank < size; ++rank) keys_.push_back(name + std::to_string(rank));
  }

  bool isCompleted() override {
    if (done_) return true;
    if (!store_->check(keys_)) return false;
    Parts parts;
    for (const std::string& key : keys_) {
      std::vector<std::uint8_t> bytes = store_->get(key);
      parts.push_back(
          at::from_blob(bytes.data(), like_.sizes(), like_.options().device(at::kCPU)).clone());
    }
    output_.copy_(result_(parts).view(output_.sizes()));
    return done_ = true;
  }
  std::exception_ptr exception() const override { return nullptr; }
  bool wait(std::chrono::milliseconds) override {
    TORCH_CHECK(isCompleted(), "emulated NCCL: would wait");
    return true;
  }

 private:
  c10::intrusive_ptr<Store> store_;
  at::Tensor like_, output_;
  std::function<at::Tensor(const Parts&)> result_;
  std::vector<std::string> keys_;
  bool done_ = false;
};

/// What this rank sends; the collective's name.
std::string ProcessGroupNCCL::send(const at::Tensor& input) {
  check_input(input);
  const std::string name = std::to_string(collectives_++) + "/";
  const at::Tensor copy = input.cpu();
  const auto* bytes = static_cast<const std::uint8_t*>(copy.const_data_ptr());
  store_->set(name + std::to_string(rank_),
              std::vector<std::uint8_t>(bytes, bytes + copy.nbytes()));
  return name;
}

c10::intrusive_ptr<Work> ProcessGroupNCCL::allreduce(std::vector<at::Tensor>& tensors,
                                                     const AllreduceOptions& options) {
  const at::Tensor& x = tensors.at(0);
  const std::string name = send(x);
  fill_with_nan(x);
  return c10::make_intrusive<Exchange>(
      store_, name, size_, x, x,
      [op = options.reduceOp](const Parts& parts) { return reduced(parts, op); });
}

c10::intrusive_ptr<Work> ProcessGroupNCCL::_reduce_scatter_base(at::Tensor& output,
                                                                at::Tensor& input) {
  check_input(output);
  TORCH_CHECK(input.numel() == output.numel() * size_);
  const std::string name = send(input);
  fill_with_nan(output);
  return c10::make_intrusive<Exchange>(
      store_, name, size_, input, output,
      [rank = rank_, part = output.numel()](const Parts& parts) {
        return reduced(parts, ReduceOp::SUM).slice(0, rank * part, (rank + 1) * part);
      });
}

c10::intrusive_ptr<Work> ProcessGroupNCCL::_allgather_base(at::Tensor& output, at::Tensor& input) {
  check_input(output);
  TORCH_CHECK(output.numel() == input.numel() * size_);
  const std::string name = send(input);
  fill_with_nan(output);  // where `input` may lie
  return c10::make_intrusive<Exchange>(store_, name, size_, input, output,
                                       [](const Parts& parts) { return at::cat(parts); });
}

}  // namespace c10d

cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  std::snprintf(text, static_cast<std::size_t>(bytes), "0000:%02d:00.0", device);
  return cudaSuccess;
}
