#include "nn/slots.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "fbi/config/model_size.h"

namespace fbi::nn {
namespace {

using ops::ParameterGroup;
using ops::ParameterSlot;
using ops::ScalePattern;
using ops::SlotKind;

ParameterSlot dense_slot(std::string name, SlotKind kind, ParameterGroup group,
                         std::vector<std::int64_t> shape, const at::TensorOptions& values) {
  ParameterSlot slot;
  slot.name = std::move(name);
  slot.kind = kind;
  slot.group = group;
  slot.value = at::empty(shape, values);
  slot.shape = std::move(shape);
  return slot;
}

ScalePattern pattern_of(config::Binarize binarize) {
  if (binarize == config::Binarize::kRow) return ScalePattern::kRow;
  if (binarize == config::Binarize::kSingle) return ScalePattern::kSingle;
  return ScalePattern::kColumn;
}

}  // namespace

ParameterSlot make_linear_slot(std::string name, std::int64_t outputs, std::int64_t inputs,
                               const config::ModelConfig& model, const at::TensorOptions& values) {
  if (model.binarize == config::Binarize::kNone)
    return dense_slot(std::move(name), SlotKind::kDense, ParameterGroup::kLatent, {outputs, inputs},
                      values);
  ParameterSlot slot;
  slot.name = std::move(name);
  slot.kind = SlotKind::kPacked;
  slot.shape = {outputs, inputs};
  slot.pattern = pattern_of(model.binarize);
  slot.learns_shift = model.shift;
  const std::int64_t scales = config::scale_count(model.binarize, {outputs, inputs});
  const auto options = at::TensorOptions().device(values.device());
  slot.bits = at::empty({outputs, (inputs + 7) / 8}, options.dtype(at::kByte));
  slot.alpha = at::empty({scales}, options.dtype(at::kFloat));
  slot.beta = at::zeros({scales}, options.dtype(at::kFloat));
  return slot;
}

void share_alpha(ParameterSlot& slot, const ParameterSlot& owner, std::int64_t rows_before) {
  slot.alpha = owner.alpha;
  slot.alpha_rows_before = rows_before;
}

ParameterSlot make_norm_slot(std::string name, std::int64_t width, at::Device device) {
  return dense_slot(std::move(name), SlotKind::kVector, ParameterGroup::kNorm, {width},
                    at::TensorOptions().dtype(at::kFloat).device(device));
}

ParameterSlot make_embedding_slot(std::string name, std::int64_t vocab_size, std::int64_t hidden,
                                  const at::TensorOptions& values) {
  return dense_slot(std::move(name), SlotKind::kDense, ParameterGroup::kEmbedding,
                    {vocab_size, hidden}, values);
}

}  // namespace fbi::nn
