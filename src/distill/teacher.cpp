#include "fbi/distill/teacher.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/distributed/shard_plan.h"
#include "fbi/nn/model_folder.h"
#include "fbi/ops/fp8.h"

namespace fbi::distill {

TeacherDtypes teacher_dtypes(const std::string& chosen, at::ScalarType stored, bool on_gpu) {
  at::ScalarType weights = stored;
  if (chosen == "fp32") weights = at::kFloat;
  if (chosen == "bf16") weights = at::kBFloat16;
  if (chosen == "fp16") weights = at::kHalf;
  // The tensor cores give bf16.
  if (chosen == "fp8") weights = stored == at::kFloat && !on_gpu ? at::kFloat : at::kBFloat16;
  return {weights, weights == at::kHalf && !on_gpu ? at::kFloat : weights};
}

void check_teacher_fit(const config::ModelConfig& teacher, const config::TeacherConfig& settings,
                       const config::ModelConfig& student, const config::TrainConfig& train,
                       bool shard) {
  const std::string& path = settings.path;
  const bool binarized = teacher.binarize != config::Binarize::kNone;
  if (binarized && settings.dtype == "fp8")
    throw UsageError(concat("teacher.dtype=fp8: the teacher ", path,
                            " is binarized already; leave teacher.dtype empty"));
  if (binarized && shard)
    throw UsageError(concat("parallel.shard_teacher: the teacher ", path,
                            " is binarized already; set it to false"));
  if (teacher.vocab_size != student.vocab_size)
    throw UsageError(concat("teacher.path ", path, ": its vocabulary has ", teacher.vocab_size,
                            " tokens, model.vocab_size is ", student.vocab_size,
                            "; both must use one tokenizer"));
  if (train.seq_len > teacher.max_position_embeddings)
    throw UsageError(concat("teacher.path ", path, ": train.seq_len ", train.seq_len,
                            " exceeds its max_position_embeddings ",
                            teacher.max_position_embeddings));
}

nn::ModelFolder check_teacher(const config::TeacherConfig& teacher,
                              const config::ModelConfig& student, const config::TrainConfig& train,
                              bool shard) {
  auto folder = nn::open_model_folder(teacher.path);
  check_teacher_fit(folder.config, teacher, student, train, shard);
  return folder;
}

Teacher::Teacher(std::unique_ptr<nn::LlamaForCausalLM> model, const formats::ModelSource& weights,
                 distributed::Communicator& communicator)
    : model_(std::move(model)), communicator_(&communicator) {
  const auto values =
      at::TensorOptions().dtype(model_->options().value_dtype).device(communicator.device());
  nn::LoadReport report;
  const auto load = [&](ops::ParameterSlot& slot) { nn::load_slot(slot, weights, report); };
  load(model_->embedding());
  if (!model_->config().tie_word_embeddings) load(model_->head());
  for (std::int64_t stage = 0; stage < model_->stage_count(); ++stage) {
    std::vector<at::Tensor> own;
    for (auto* slot : model_->stage_slots(stage)) {
      if (slot->kind == ops::SlotKind::kVector) {
        load(*slot);
        continue;
      }
      const at::Tensor value = nn::read_tensor(weights, slot->name, slot->shape);
      const auto rows = distributed::range(slot->rows(), communicator.rank(), communicator.size());
      own.push_back(value.narrow(0, rows.begin, rows.rows())
                        .to(values, /*non_blocking=*/false, /*copy=*/true));
    }
    if (!own.empty()) own_rows_.push_back(std::move(own));
  }
  for (auto& buffer : whole_)
    for (auto* slot : model_->stage_slots(0))
      if (slot->kind != ops::SlotKind::kVector) buffer.push_back(at::empty(slot->shape, values));
}

distributed::RowGather Teacher::start_gathering(std::size_t layer, int buffer) {
  std::vector<distributed::RowExchangePart> parts;
  for (std::size_t i = 0; i < own_rows_[layer].size(); ++i)
    parts.push_back({whole_[buffer][i], own_rows_[layer][i]});
  return {*communicator_, std::move(parts), distributed::Payload::kTeacher};
}

void Teacher::point_slots(std::size_t layer, int buffer) {
  std::size_t i = 0;
  for (auto* slot : model_->stage_slots(static_cast<std::int64_t>(layer)))
    if (slot->kind != ops::SlotKind::kVector) slot->value = whole_[buffer][i++];
}

/// Layer by layer rather than part by part, so that a layer is gathered once.
at::Tensor Teacher::forward_stage(std::int64_t stage, const at::Tensor& x,
                                  const nn::RotaryTable& table) {
  if (micro_batch_ == 0) return model_->forward_stage(stage, x, table);
  for (const at::Tensor& part : x.split(micro_batch_))
    part.copy_(model_->forward_stage(stage, part, table));
  return x;
}

/// The layer that was on its way is there, and the one behind it sets out.
void Teacher::take_layer(std::size_t layer, std::optional<distributed::RowGather>& under_way) {
  const int buffer = static_cast<int>(layer % 2);
  under_way->finish();
  if (layer + 1 < own_rows_.size()) under_way = start_gathering(layer + 1, 1 - buffer);
  point_slots(layer, buffer);
}

at::Tensor Teacher::hidden_states(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const auto table = model_->rotary(0, ids.size(1));
  at::Tensor x = model_->embed(ids);
  std::optional<distributed::RowGather> under_way;
  if (communicator_) under_way = start_gathering(0, 0);
  for (std::int64_t stage = 0; stage < model_->stage_count(); ++stage) {
    const auto layer = static_cast<std::size_t>(stage);
    if (layer < own_rows_.size()) take_layer(layer, under_way);
    x = forward_stage(stage, x, table);
  }
  return x;
}

std::vector<at::Tensor> Teacher::tensors() const {
  std::vector<at::Tensor> out;
  for (const auto* slot : model_->slots())
    for (const auto& tensor :
         {slot->value, slot->value_scales, slot->bits, slot->alpha, slot->beta})
      if (tensor.defined()) out.push_back(tensor);
  for (const auto& layer : own_rows_) out.insert(out.end(), layer.begin(), layer.end());
  for (const auto& buffer : whole_) out.insert(out.end(), buffer.begin(), buffer.end());
  return out;
}

std::unique_ptr<Teacher> load_teacher(const config::TeacherConfig& teacher,
                                      const config::ModelConfig& student,
                                      const config::TrainConfig& train,
                                      distributed::Communicator& communicator, bool shard) {
  shard = shard && communicator.size() > 1;
  const auto folder = check_teacher(teacher, student, train, shard);
  const at::Device device = communicator.device();
  if (teacher.dtype == "fp8") ops::check_fp8(kFp8Teacher, device);
  const auto [stored, compute] =
      teacher_dtypes(teacher.dtype, folder.stored_dtype, device.is_cuda());
  auto model = std::make_unique<nn::LlamaForCausalLM>(
      folder.config, nn::LlamaOptions{device, compute, stored, /*allocate_layers=*/!shard});
  std::unique_ptr<Teacher> result;
  if (shard) {
    result = std::make_unique<Teacher>(std::move(model), *folder.weights, communicator);
  } else {
    nn::load_weights(*model, *folder.weights);
    result = std::make_unique<Teacher>(std::move(model));
  }
  result->set_micro_batch(teacher.micro_batch);
  log::info("teacher: ", folder.kind, " ", folder.path.string(), ", weights ",
            c10::toString(stored), ", arithmetic ", c10::toString(compute),
            shard ? ", spread over ranks" : "");
  return result;
}

}  // namespace fbi::distill
