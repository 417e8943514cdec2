#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>

namespace fbi::ops {

/// Which of the `gpus` that this process sees a rank computes on: its own among those of the
/// machine, or the only one. UsageError when there is none for it. (Ranks over NCCL that were given
/// the same one find out when they meet.)
int gpu_of_rank(int local_rank, int gpus);

/// "auto" (a GPU when there is one), "cpu" or "cuda" (the one of gpu_of_rank). UsageError for other
/// names, and when CUDA is asked for and missing.
at::Device choose_device(const std::string& name, int local_rank);

/// The most bytes that tensors have held at once on this GPU since the process started; 0 for the
/// CPU.
std::int64_t peak_device_bytes(at::Device device);

/// While one lives, attention on this device, if it is a GPU, suits sequences of any length.
/// cuDNN's, which LibTorch prefers on H100 and H200, prepares a plan for each new length, as of
/// every token that is generated. A setting of the process, made by one thread.
class AnyLengthAttention {
 public:
  explicit AnyLengthAttention(at::Device device);
  ~AnyLengthAttention();
  AnyLengthAttention(const AnyLengthAttention&) = delete;
  AnyLengthAttention& operator=(const AnyLengthAttention&) = delete;

 private:
  bool cudnn_;  ///< it was in use
};

}  // namespace fbi::ops
