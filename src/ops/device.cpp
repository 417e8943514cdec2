#include "fbi/ops/device.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <filesystem>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {

int gpu_of_rank(int local_rank, int gpus) {
  if (gpus == 1) return 0;  // a scheduler that gives each rank one GPU shows it no other
  if (local_rank < gpus) return local_rank;
  throw UsageError(concat("local rank ", local_rank, " has no GPU: this process sees ", gpus,
                          ", one for each rank of a machine; start as many ranks there (--nproc, "
                          "--ntasks-per-node), or let it see more "
                          "(CUDA_VISIBLE_DEVICES)"));
}

at::Device choose_device(const std::string& name, int local_rank) {
  if (name != "auto" && name != "cpu" && name != "cuda")
    throw UsageError(concat("device '", name, "' is unknown; choose auto, cpu or cuda"));
  const bool available = gpu::built() && at::hasCUDA();
  if (name == "cuda" && !gpu::built())
    throw UsageError(
        "device cuda is asked for, but this program was built without it: build it with "
        "scripts/build.sh --cuda, or use cpu or auto");
  if (name == "cuda" && !available)
    throw UsageError(
        "device cuda is asked for, but no GPU is found (nvidia-smi shows what the driver sees); "
        "use cpu or auto");
  if (name == "auto" && !gpu::built() && std::filesystem::exists("/dev/nvidiactl"))
    log::warn(
        "there is a GPU, but this program was built without CUDA and runs on the CPU: "
        "scripts/build.sh --cuda builds it with");
  if (name == "auto" && gpu::built() && !available)
    log::warn(
        "no GPU is found (nvidia-smi shows what the driver sees): this program, built for GPUs, "
        "runs on the CPU; device cuda makes that an error");
  if (name == "cpu" || !available) return at::kCPU;
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu_of_rank(
                                         local_rank, static_cast<int>(at::getNumGPUs()))));
  gpu::use(device);
  return device;
}

std::int64_t peak_device_bytes(at::Device device) {
  if (!device.is_cuda()) return 0;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
      .peak;
}

AnyLengthAttention::AnyLengthAttention(at::Device device)
    : cudnn_(device.is_cuda() && at::globalContext().userEnabledCuDNNSDP()) {
  if (cudnn_) at::globalContext().setSDPUseCuDNN(false);
}
AnyLengthAttention::~AnyLengthAttention() {
  if (cudnn_) at::globalContext().setSDPUseCuDNN(true);
}

}  // namespace fbi::ops
