#include "parity/trace.h"

#include <algorithm>
#include <cstring>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/safetensors.h"

namespace fbi::parity {
namespace {

using Json = nlohmann::json;

/// A JSON object that knows where it stands, for messages.
class Fields {
 public:
  Fields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
    if (!object_.is_object()) throw DataError(concat(place_, ": expected an object"));
  }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  const Json& at(const char* key) const {
    if (!has(key)) throw DataError(concat(place_, ": field '", key, "' is missing"));
    return object_[key];
  }
  template <class T>
  T get(const char* key) const {
    try {
      return at(key).get<T>();
    } catch (const Json::exception& error) {
      throw DataError(concat(place_, ": field '", key, "': ", error.what()));
    }
  }
  std::int64_t positive(const char* key) const {
    const auto value = get<std::int64_t>(key);
    if (value < 1)
      throw DataError(concat(place_, ": field '", key, "' is ", value, ", expected at least 1"));
    return value;
  }
  std::optional<double> optional(const char* key) const {
    return has(key) ? std::optional(get<double>(key)) : std::nullopt;
  }
  Fields object(const char* key) const { return {at(key), concat(place_, ": ", key)}; }
  std::vector<Fields> list(const char* key) const {
    const Json& entries = at(key);
    if (!entries.is_array()) throw DataError(concat(place_, ": field '", key, "' is not a list"));
    std::vector<Fields> out;
    for (std::size_t i = 0; i < entries.size(); ++i)
      out.emplace_back(entries[i], concat(place_, ": ", key, "[", i, "]"));
    return out;
  }
  const std::string& place() const { return place_; }

 private:
  const Json& object_;
  std::string place_;
};

config::ModelConfig read_model(const Fields& trace, const char* key, config::Binarize binarize) {
  const Fields model = trace.object(key);
  config::ModelConfig config =
      config::model_config_from_hf_json(trace.at(key).dump(), model.place());
  config.binarize = binarize;
  return config;
}

void read_pattern(const Fields& fields, Trace& trace, config::Binarize& binarize) {
  const auto name = fields.get<std::string>("scaling_pattern");
  if (name == "column") {
    trace.pattern = ops::ScalePattern::kColumn;
    binarize = config::Binarize::kColumn;
  } else if (name == "row") {
    trace.pattern = ops::ScalePattern::kRow;
    binarize = config::Binarize::kRow;
  } else if (name == "single") {
    trace.pattern = ops::ScalePattern::kSingle;
    binarize = config::Binarize::kSingle;
  } else {
    throw DataError(
        concat(fields.place(), ": scaling_pattern '", name, "', expected column, row or single"));
  }
}

void read_objective(const Fields& fields, Trace& trace) {
  const auto mode = fields.get<int>("loss_mode");
  if (mode < 0 || mode > 2)
    throw DataError(
        concat(fields.place(), ": loss_mode ", mode, ", expected 0 (AR), 1 (KD) or 2 (half each)"));
  trace.next_token_weight = mode == 0 ? 1.0 : mode == 1 ? 0.0 : 0.5;
  trace.distill_weight = 1.0 - trace.next_token_weight;
  if (trace.distill_weight > 0 && !trace.teacher)
    throw DataError(concat(fields.place(), ": loss_mode ", mode, " needs teacher_config"));
}

config::Precision read_precision(const Fields& fields) {
  const auto name = fields.get<std::string>("precision");
  if (name == "fp32") return config::Precision::kFp32;
  if (name == "bf16-mixed") return config::Precision::kBf16;
  throw DataError(concat(fields.place(), ": precision '", name, "', expected fp32 or bf16-mixed"));
}

TraceOptimizer read_optimizer(const Fields& fields) {
  TraceOptimizer out;
  out.lr = fields.get<double>("lr");
  out.end_lr = fields.get<double>("end_lr");
  out.beta1 = fields.get<double>("beta1");
  out.beta2 = fields.get<double>("beta2");
  out.eps = fields.get<double>("eps");
  out.weight_decay = fields.get<double>("weight_decay");
  out.clip_norm = fields.get<double>("clip_norm");
  out.warmup_micro_steps = fields.get<std::int64_t>("warmup_micro_steps");
  out.total_micro_steps = fields.get<std::int64_t>("total_micro_steps");
  return out;
}

StepValues read_step(const Fields& fields, std::size_t modules) {
  StepValues step;
  step.lr = fields.get<double>("lr");
  step.grad_norm = fields.get<double>("grad_norm");
  step.grad_norm_after_clip = fields.get<double>("grad_norm_after_clip");
  step.flips = fields.get<std::vector<std::int64_t>>("flips");
  if (step.flips.size() != modules)
    throw DataError(concat(fields.place(), ": ", step.flips.size(), " flip counts for ", modules,
                           " binarized modules"));
  return step;
}

void read_training(const Fields& fields, Trace& trace) {
  if (!fields.has("optimizer")) return;
  trace.optimizer = read_optimizer(fields.object("optimizer"));
  for (const Fields& micro_step : fields.list("micro_step_log"))
    trace.micro_losses.push_back({micro_step.get<double>("loss"), micro_step.optional("ar_loss"),
                                  micro_step.optional("kd_loss")});
  for (const Fields& step : fields.list("optimizer_steps"))
    trace.steps.push_back(read_step(step, trace.binarized_modules.size()));
  const auto logged = static_cast<std::int64_t>(trace.micro_losses.size());
  const auto steps = static_cast<std::int64_t>(trace.steps.size());
  if (logged != trace.micro_steps || steps * trace.accumulate != trace.micro_steps)
    throw DataError(concat(fields.place(), ": ", trace.micro_steps, " micro-steps, ",
                           trace.accumulate, " per optimizer step, but ", logged, " logged and ",
                           steps, " optimizer steps"));
}

void read_json(const std::filesystem::path& path, Trace& trace) {
  Json json;
  try {
    json = Json::parse(read_file(path));
  } catch (const Json::exception& error) {
    throw DataError(concat(path.string(), ": ", error.what()));
  }
  const Fields fields(json, path.string());
  trace.name = fields.get<std::string>("trace");
  trace.precision = read_precision(fields);
  config::Binarize binarize{};
  read_pattern(fields, trace, binarize);
  trace.student = read_model(fields, "student_config", binarize);
  if (fields.has("teacher_config"))
    trace.teacher = read_model(fields, "teacher_config", config::Binarize::kNone);
  read_objective(fields, trace);
  trace.batch = fields.positive("batch");
  trace.seq = fields.positive("seq");
  trace.micro_steps = fields.positive("micro_steps");
  trace.accumulate = fields.positive("accumulate");
  trace.binarized_modules = fields.get<std::vector<std::string>>("binarized_modules");
  trace.scales_from_weights = fields.get<std::string>("init") == "scratch";
  const Fields first = fields.object("first_micro_batch");
  trace.first_losses = {first.get<double>("loss"), first.optional("ar"), first.optional("kd")};
  read_training(fields, trace);
}

at::Tensor float_tensor(const formats::TensorView& view) {
  const at::Tensor tensor = at::empty(view.shape);
  formats::to_float(view, {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())});
  return tensor;
}

/// The tensors whose name starts with `prefix`, without it.
NamedTensors tensors_below(const formats::SafetensorsFile& file, const std::string& prefix) {
  NamedTensors out;
  for (const formats::TensorView& view : file.tensors())
    if (view.name.starts_with(prefix)) out[view.name.substr(prefix.size())] = float_tensor(view);
  return out;
}

at::Tensor required(const formats::SafetensorsFile& file, const std::string& name,
                    const std::vector<std::int64_t>& shape, formats::DType dtype) {
  const auto view = std::ranges::find(file.tensors(), name, &formats::TensorView::name);
  if (view == file.tensors().end())
    throw DataError(concat(file.path().string(), ": tensor ", name, " is missing"));
  if (view->shape != shape || view->dtype != dtype)
    throw DataError(concat(file.path().string(), ": tensor ", name, ": expected ", to_string(dtype),
                           " ", at::IntArrayRef(shape), ", found ", to_string(view->dtype), " ",
                           at::IntArrayRef(view->shape)));
  if (dtype == formats::DType::kF32) return float_tensor(*view);
  const at::Tensor ids = at::empty(view->shape, at::kInt);
  std::memcpy(ids.data_ptr<std::int32_t>(), view->bytes.data(), view->bytes.size());
  return ids.to(at::kLong);
}

void check_same_tensors(const std::filesystem::path& path, const NamedTensors& found,
                        const NamedTensors& expected) {
  for (const auto& [name, tensor] : expected) {
    const auto entry = found.find(name);
    if (entry == found.end()) throw DataError(concat(path.string(), ": no tensor for ", name));
    if (entry->second.sizes() != tensor.sizes())
      throw DataError(concat(path.string(), ": ", name, ": expected ", tensor.sizes(), ", found ",
                             entry->second.sizes()));
  }
  if (found.size() != expected.size())
    throw DataError(
        concat(path.string(), ": ", found.size(), " tensors for ", expected.size(), " parameters"));
}

void read_tensors(Trace& trace) {
  const formats::SafetensorsFile init(trace.directory / "init.safetensors");
  trace.student_init = tensors_below(init, "student.");
  trace.teacher_init = tensors_below(init, "teacher.");
  const std::vector<std::int64_t> token_shape{trace.micro_steps, trace.batch, trace.seq + 1};
  trace.tokens = required(init, "tokens", token_shape, formats::DType::kI32);
  const auto largest = trace.tokens.max().item<std::int64_t>(),
             smallest = trace.tokens.min().item<std::int64_t>();
  if (smallest < 0 || largest >= trace.student.vocab_size)
    throw DataError(concat(init.path().string(), ": token ids from ", smallest, " to ", largest,
                           " with a vocabulary of ", trace.student.vocab_size));
  for (const std::string& module : trace.binarized_modules)
    if (!trace.student_init.contains(module + ".weight"))
      throw DataError(concat(init.path().string(), ": no weight of the binarized module ", module));

  const formats::SafetensorsFile first(trace.directory / "first.safetensors");
  const std::vector<std::int64_t> logits_shape{trace.batch, trace.seq, trace.student.vocab_size};
  trace.student_logits = required(first, "student_logits", logits_shape, formats::DType::kF32);
  if (trace.teacher)
    trace.teacher_logits = required(first, "teacher_logits", logits_shape, formats::DType::kF32);
  trace.first_gradients = tensors_below(first, "grad.");
  check_same_tensors(first.path(), trace.first_gradients, trace.student_init);
  trace.effective = tensors_below(first, "effective.");

  if (!trace.optimizer) return;
  const formats::SafetensorsFile last(trace.directory / "final.safetensors");
  trace.final_parameters = tensors_below(last, "student.");
  check_same_tensors(last.path(), trace.final_parameters, trace.student_init);
}

}  // namespace

Trace load_trace(const std::filesystem::path& directory) {
  Trace trace;
  trace.directory = directory;
  read_json(directory / "trace.json", trace);
  read_tensors(trace);
  return trace;
}

std::int64_t count_zero_latents(const Trace& trace) {
  std::int64_t zeros = 0;
  for (const std::string& module : trace.binarized_modules)
    zeros += (trace.student_init.at(module + ".weight") == 0).sum().item<std::int64_t>();
  return zeros;
}

}  // namespace fbi::parity
