#include "infer/forward.h"

#include <utility>

#include "fbi/core/error.h"
#include "infer/cpu_forward.h"
#include "infer/gpu_forward.h"

namespace fbi::infer {

std::unique_ptr<Forward> make_forward(std::unique_ptr<ModelParts> parts,
                                      const PackedOptions& options, Team& team) {
  std::string why_not;
  if (options.device != Device::kCpu) why_not = gpu::why_not(parts->config(), options);
  if (options.device == Device::kCuda && !why_not.empty()) {
    throw UsageError(concat("device cuda is asked for, but ", why_not, "; use cpu or auto"));
  }
  if (options.device != Device::kCpu && why_not.empty()) {
    return gpu::make_forward(std::move(parts), options, team.pool());
  }
  return std::make_unique<CpuForward>(std::move(parts), options, team);
}

}  // namespace fbi::infer
