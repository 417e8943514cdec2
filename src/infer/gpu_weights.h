#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "fbi/kernels/cuda_decode.h"
#include "fbi/kernels/cuda_memory.h"
#include "infer/model_parts.h"

namespace fbi::infer::gpu {

/// Hands out pieces of device memory, 256 bytes apart; one without memory counts what is needed.
class Places {
 public:
  Places() = default;
  explicit Places(const kernels::cuda::DeviceMemory& memory) : base_(memory.data()) {}
  template <class T>
  T* take(std::int64_t count) {
    constexpr std::size_t kLine = 256;
    const std::size_t begin = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    return base_ ? reinterpret_cast<T*>(base_ + begin) : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

/// One piece of memory for all that `place` takes: void(Places&), which is called twice.
template <class Place>
kernels::cuda::DeviceMemory placed(const std::string& what, const Place& place) {
  Places needed;
  place(needed);
  kernels::cuda::DeviceMemory memory(needed.used(), what);
  Places places(memory);
  place(places);
  return memory;
}

struct LayerMatrices {
  kernels::cuda::RepackedMatrix q, k, v, o, gate, up, down;
  const float *input_norm = nullptr, *post_attention_norm = nullptr;
};

/// A binarized model in a GPU's memory.
class Weights {
 public:
  Weights(const ModelParts& parts, const std::optional<kernels::Storage>& head,
          ParallelFor& parallel, const kernels::cuda::Queue& queue);

  const std::vector<LayerMatrices>& layers() const { return layers_; }
  const float* final_norm() const { return final_norm_; }
  const kernels::cuda::DenseMatrix& embedding() const { return embedding_; }
  const kernels::cuda::DenseMatrix& head() const { return head_; }
  std::uint64_t sign_bytes() const { return sign_bytes_; }
  std::uint64_t head_bytes() const { return head_bytes_; }

 private:
  /// Without a head the embedding is one.
  void place(Places& places, const config::ModelConfig& model,
             const kernels::DenseLinear& embedding,
             const std::optional<kernels::DenseLinear>& head);
  void load_layer(const ModelParts& parts, std::int64_t index, std::byte* staging,
                  const kernels::cuda::Queue& queue);

  std::vector<LayerMatrices> layers_;
  float* final_norm_ = nullptr;
  kernels::cuda::DenseMatrix embedding_, head_;
  std::uint64_t sign_bytes_ = 0, head_bytes_ = 0;
  kernels::cuda::DeviceMemory memory_;
};

}  // namespace fbi::infer::gpu
