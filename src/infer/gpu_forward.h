#pragma once

#include <memory>
#include <string>

#include "infer/forward.h"

/// Forward on an NVIDIA GPU: gpu_*_cuda.cpp in builds with FBI_CUDA=ON, else
/// gpu_forward_absent.cpp.
namespace fbi::infer::gpu {

/// Why no GPU runs this model so; empty where one does.
std::string why_not(const config::ModelConfig& model, const PackedOptions& options);
/// Where there is no reason why not. Throws UsageError when the model does not fit into the GPU's
/// memory.
std::unique_ptr<Forward> make_forward(std::unique_ptr<ModelParts> parts,
                                      const PackedOptions& options, ParallelFor& parallel);

}  // namespace fbi::infer::gpu
