#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::nn {

/// Slots with their working copies allocated (contents undefined until loaded) and without
/// gradients. `values`: where they lie, and the dtype of dense matrices.
ops::ParameterSlot make_linear_slot(std::string name, std::int64_t outputs, std::int64_t inputs,
                                    const config::ModelConfig& model,
                                    const at::TensorOptions& values);
/// `slot` gives up its alpha and uses that of `owner`; slots that do so are given in the model's
/// order, `rows_before` as in ParameterSlot.
void share_alpha(ops::ParameterSlot& slot, const ops::ParameterSlot& owner,
                 std::int64_t rows_before);
ops::ParameterSlot make_norm_slot(std::string name, std::int64_t width, at::Device device);
ops::ParameterSlot make_embedding_slot(std::string name, std::int64_t vocab_size,
                                       std::int64_t hidden, const at::TensorOptions& values);

}  // namespace fbi::nn
