#include "fbi/nn/weights.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <map>
#include <optional>
#include <span>

#include "fbi/config/model_tensors.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::nn {
namespace {

class RandomWeights final : public formats::ModelSource {
 public:
  RandomWeights(const config::ModelConfig& model, std::uint64_t seed) : model_(model), seed_(seed) {
    for (const auto& tensor : config::model_tensors(model))
      if (tensor.is_weight()) shapes_.emplace(tensor.name, tensor.shape);
  }
  std::string description() const override { return concat("random weights, seed ", seed_); }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& entry : shapes_) all.push_back(entry.first);
    return all;
  }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const auto found = shapes_.find(name);
    if (found == shapes_.end()) return std::nullopt;
    return found->second;
  }
  void read(const std::string& name, std::span<float> out) const override {
    const auto found = shapes_.find(name);
    if (found == shapes_.end()) throw DataError(concat(description(), " have no tensor ", name));
    if (found->second.size() == 1) {
      std::ranges::fill(out, 1.0f);
      return;
    }
    // A number depends on its index alone, not on who forms it.
    ops::torch_parallel_for().run(
        0, std::ssize(out), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
          fill_normal(
              out.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
              seed_, hash64(name), static_cast<std::uint64_t>(begin), 0.0,
              model_.initializer_range);
        });
    if (name == config::kEmbedding && model_.pad_token_id)
      std::fill_n(out.begin() + *model_.pad_token_id * model_.hidden_size, model_.hidden_size,
                  0.0f);
  }

 private:
  config::ModelConfig model_;
  std::uint64_t seed_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
};

/// A tied alpha is in the files once for each of its layers.
void load_alpha(ops::ParameterSlot& slot, const at::Tensor& alpha,
                const formats::ModelSource& source) {
  if (!slot.owns_alpha() && !alpha.equal(slot.alpha.cpu()))
    throw DataError(concat(config::scale_name(slot.name), " in ", source.description(),
                           " differs from the scales of the layers before it, but model.tie_scales "
                           "is true: q, k and v must have the same, "
                           "and so must gate and up; set model.tie_scales=false"));
  slot.alpha.copy_(alpha);
}

at::Tensor load_packed(ops::ParameterSlot& slot, const formats::ModelSource& source,
                       LoadReport& report) {
  const at::Tensor latent = read_tensor(source, slot.name, slot.shape);
  report.zero_signs += latent.eq(0).sum().item<std::int64_t>();
  ops::pack_signs(slot, latent);
  const std::string scale = config::scale_name(slot.name);
  if (source.shape(scale)) {
    const auto shape = ops::scale_shape(slot);
    load_alpha(slot, read_tensor(source, scale, shape).reshape(-1), source);
    if (slot.learns_shift)
      slot.beta.copy_(read_tensor(source, config::shift_name(slot.name), shape).reshape(-1));
  } else {
    ops::initial_scales(slot, latent);
  }
  return latent;
}

}  // namespace

std::unique_ptr<formats::ModelSource> random_weights(const config::ModelConfig& model,
                                                     std::uint64_t seed) {
  return std::make_unique<RandomWeights>(model, seed);
}

at::Tensor read_tensor(const formats::ModelSource& source, const std::string& name,
                       const std::vector<std::int64_t>& shape) {
  const auto found = source.shape(name);
  if (found && *found != shape)
    throw DataError(concat(name, ": expected ", at::IntArrayRef(shape), ", found ",
                           at::IntArrayRef(*found), " in ", source.description()));
  at::Tensor out = at::empty(shape, at::kFloat);
  source.read(name, {out.data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out;
}

at::Tensor load_slot(ops::ParameterSlot& slot, const formats::ModelSource& source,
                     LoadReport& report) {
  if (slot.kind == ops::SlotKind::kPacked) return load_packed(slot, source, report);
  slot.value.copy_(read_tensor(source, slot.name, slot.shape));
  return slot.value;
}

LoadReport load_weights(LlamaForCausalLM& model, const formats::ModelSource& source) {
  formats::check_tensors(source, model.config(), formats::Scales::kOptional);
  LoadReport report;
  for (auto* slot : model.slots()) load_slot(*slot, source, report);
  return report;
}

}  // namespace fbi::nn
