#include "fbi/nn/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <set>

#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::nn {
namespace {

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const config::ModelConfig& model, std::uint64_t seed)
      : model_(model), seed_(seed) {}
  std::string description() const override { return concat("random weights, seed ", seed_); }
  std::vector<std::string> names() const override { return {}; }
  bool contains(const std::string& name) const override { return name.ends_with(".weight"); }
  at::Tensor tensor(const std::string& name,
                    const std::vector<std::int64_t>& shape) const override {
    if (shape.size() == 1) return at::ones(shape, at::kFloat);
    at::Tensor out = at::empty(shape, at::kFloat);
    auto* values = out.data_ptr<float>();
    // A number depends on its index alone, not on who forms it.
    ops::torch_parallel_for().run(
        0, out.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
          fill_normal({values + begin, static_cast<std::size_t>(end - begin)}, seed_, hash64(name),
                      static_cast<std::uint64_t>(begin), 0.0, model_.initializer_range);
        });
    if (name == config::kEmbedding && model_.pad_token_id)
      out.select(0, *model_.pad_token_id).zero_();
    return out;
  }

 private:
  config::ModelConfig model_;
  std::uint64_t seed_;
};

/// Tensors that lie in files.
class StoredWeights final : public WeightSource {
 public:
  explicit StoredWeights(std::unique_ptr<formats::ModelSource> source)
      : source_(std::move(source)) {}
  std::string description() const override { return source_->description(); }
  std::vector<std::string> names() const override { return source_->names(); }
  bool contains(const std::string& name) const override { return source_->shape(name).has_value(); }
  void check_shape(const std::string& name, const std::vector<std::int64_t>& shape) const override {
    const auto found = source_->shape(name);
    if (found && *found != shape)
      throw DataError(concat(name, ": expected ", at::IntArrayRef(shape), ", found ",
                             at::IntArrayRef(*found), " in ", description()));
  }
  at::Tensor tensor(const std::string& name,
                    const std::vector<std::int64_t>& shape) const override {
    check_shape(name, shape);
    at::Tensor out = at::empty(shape, at::kFloat);
    source_->read(name, {out.data_ptr<float>(), static_cast<std::size_t>(out.numel())});
    return out;
  }

 private:
  std::unique_ptr<formats::ModelSource> source_;
};

/// A tied alpha is in the files once for each of its layers.
void load_alpha(ops::ParameterSlot& slot, const at::Tensor& alpha, const WeightSource& source) {
  if (!slot.owns_alpha() && !alpha.equal(slot.alpha.cpu()))
    throw DataError(concat(config::scale_name(slot.name), " in ", source.description(),
                           " differs from the scales of the layers before it, but model.tie_scales "
                           "is true: q, k and v must have the same, "
                           "and so must gate and up; set model.tie_scales=false"));
  slot.alpha.copy_(alpha);
}

at::Tensor load_packed(ops::ParameterSlot& slot, const WeightSource& source, LoadReport& report) {
  const at::Tensor latent = source.tensor(slot.name, slot.shape);
  report.zero_signs += latent.eq(0).sum().item<std::int64_t>();
  ops::pack_signs(slot, latent);
  const std::string scale = config::scale_name(slot.name);
  if (source.contains(scale)) {
    const auto shape = ops::scale_shape(slot);
    load_alpha(slot, source.tensor(scale, shape).reshape(-1), source);
    if (slot.learns_shift)
      slot.beta.copy_(source.tensor(config::shift_name(slot.name), shape).reshape(-1));
  } else {
    ops::initial_scales(slot, latent);
  }
  return latent;
}

void check_names(const LlamaForCausalLM& model, const std::vector<std::string>& names,
                 const WeightSource& source) {
  std::set<std::string> expected;
  bool scaled = false;
  for (const auto& name : names) scaled |= name.ends_with(config::kScale);
  for (const auto* slot : model.slots()) {
    expected.insert(slot->name);
    if (slot->kind != ops::SlotKind::kPacked || !scaled) continue;
    expected.insert(config::scale_name(slot->name));
    if (slot->learns_shift) expected.insert(config::shift_name(slot->name));
  }
  std::string problems;
  for (const auto& name : expected)
    if (!source.contains(name)) problems += concat("\n  missing: ", name);
  const bool tied_head = model.config().tie_word_embeddings;
  for (const auto& name : names)
    if (!expected.contains(name) && !config::is_passed_over(name, tied_head))
      problems += concat("\n  not used by this architecture: ", name);
  if (!problems.empty())
    throw DataError(concat("tensors of ", source.description(), " do not fit the model:", problems,
                           "\nCheck the folder's config.json (num_hidden_layers, "
                           "tie_word_embeddings, binarize, shift)."));
}

}  // namespace

std::unique_ptr<WeightSource> random_weights(const config::ModelConfig& model, std::uint64_t seed) {
  return std::make_unique<RandomWeights>(model, seed);
}
std::unique_ptr<WeightSource> stored_weights(std::unique_ptr<formats::ModelSource> source) {
  return std::make_unique<StoredWeights>(std::move(source));
}

at::Tensor load_slot(ops::ParameterSlot& slot, const WeightSource& source, LoadReport& report) {
  if (slot.kind == ops::SlotKind::kPacked) return load_packed(slot, source, report);
  slot.value.copy_(source.tensor(slot.name, slot.shape));
  return slot.value;
}

LoadReport load_weights(LlamaForCausalLM& model, const WeightSource& source) {
  check_weights(model, source);
  LoadReport report;
  for (auto* slot : model.slots()) load_slot(*slot, source, report);
  return report;
}

void check_weights(const LlamaForCausalLM& model, const WeightSource& source) {
  const auto names = source.names();
  if (names.empty()) return;  // random weights have every name, and every shape
  check_names(model, names, source);
  for (const auto* slot : model.slots()) {
    source.check_shape(slot->name, slot->shape);
    if (slot->kind != ops::SlotKind::kPacked) continue;
    for (const auto& name : {config::scale_name(slot->name), config::shift_name(slot->name)})
      source.check_shape(name, ops::scale_shape(*slot));
  }
}

}  // namespace fbi::nn
