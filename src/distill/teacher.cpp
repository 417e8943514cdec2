#include "fbi/distill/teacher.h"

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/nn/model_folder.h"

namespace fbi::distill {
namespace {

at::ScalarType own_or_chosen(const std::string& chosen, at::ScalarType own) {
  if (chosen == "fp32") return at::kFloat;
  if (chosen == "bf16") return at::kBFloat16;
  if (chosen == "fp16") return at::kHalf;
  return own;
}

void check_fit(const config::ModelConfig& teacher, const config::ModelConfig& student, const config::TrainConfig& train,
               const std::string& path) {
  if (teacher.vocab_size != student.vocab_size)
    throw UsageError(concat("teacher.path ", path, ": its vocabulary has ", teacher.vocab_size,
                            " tokens, model.vocab_size is ", student.vocab_size, "; both must use one tokenizer"));
  if (train.seq_len > teacher.max_position_embeddings)
    throw UsageError(concat("teacher.path ", path, ": train.seq_len ", train.seq_len,
                            " exceeds its max_position_embeddings ", teacher.max_position_embeddings));
}

}  // namespace

config::ModelConfig check_teacher(const config::TeacherConfig& teacher, const config::ModelConfig& student,
                                  const config::TrainConfig& train) {
  const auto folder = nn::open_model_folder(teacher.path);
  check_fit(folder.config, student, train, teacher.path);
  return folder.config;
}

std::unique_ptr<nn::LlamaForCausalLM> load_teacher(const config::TeacherConfig& teacher, const config::ModelConfig& student,
                                                   const config::TrainConfig& train, at::Device device) {
  const auto folder = nn::open_model_folder(teacher.path);
  check_fit(folder.config, student, train, teacher.path);
  const at::ScalarType stored = own_or_chosen(teacher.dtype, folder.stored_dtype);
  const at::ScalarType compute = stored == at::kHalf && device.is_cpu() ? at::kFloat : stored;
  auto model = std::make_unique<nn::LlamaForCausalLM>(folder.config, nn::LlamaOptions{device, compute});
  nn::load_weights(*model, *folder.weights);
  if (stored != at::kFloat) model->store_values_as(stored);
  log::info("teacher: ", folder.kind, " ", folder.path.string(), ", weights ", c10::toString(stored), ", arithmetic ",
            c10::toString(compute));
  return model;
}

}  // namespace fbi::distill
