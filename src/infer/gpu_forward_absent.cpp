#include "fbi/core/error.h"
#include "infer/gpu_forward.h"

namespace fbi::infer::gpu {

std::string why_not(const config::ModelConfig&, const PackedOptions&) {
  return "this program was built without it (scripts/build.sh --cuda, or FBI_CUDA=ON, builds with "
         "it)";
}

std::unique_ptr<Forward> make_forward(std::unique_ptr<ModelParts> parts,
                                      const PackedOptions& options, ParallelFor&) {
  throw UsageError(concat("no GPU: ", why_not(parts->config(), options)));
}

}  // namespace fbi::infer::gpu
