#include "train/session.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <limits>
#include <nlohmann/json.hpp>

#include "fbi/checkpoint/checkpoint_tensors.h"
#include "fbi/checkpoint/commit.h"
#include "fbi/config/compare.h"
#include "fbi/config/load.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/distributed/agreement.h"
#include "fbi/ops/parallel.h"
#include "fbi/train/open_model.h"
#include "train/tokenizers.h"

namespace fbi::train {
namespace {

using Json = nlohmann::ordered_json;

Json state_to_json(const TrainState& state) {
  return {{"step", state.step},       {"updates", state.updates},
          {"tokens", state.tokens},   {"position", state.position},
          {"skipped", state.skipped}, {"skipped_in_row", state.skipped_in_row}};
}

TrainState state_from_json(const Json& json, const std::string& place) {
  TrainState state;
  try {
    json.at("step").get_to(state.step);
    json.at("updates").get_to(state.updates);
    json.at("tokens").get_to(state.tokens);
    json.at("position").get_to(state.position);
    json.at("skipped").get_to(state.skipped);
    json.at("skipped_in_row").get_to(state.skipped_in_row);
  } catch (const Json::exception& error) {
    throw CheckpointError(concat(place, ": state.train: ", error.what()));
  }
  return state;
}

Json manifest_state(const formats::CheckpointReader& checkpoint) {
  const auto state =
      Json::parse(checkpoint.manifest().state_json, nullptr, /*allow_exceptions=*/false);
  if (!state.is_object() || !state.contains("train") || !state.contains("config"))
    throw CheckpointError(concat(checkpoint.path().string(),
                                 ": state.train or state.config is missing in manifest.json"));
  return state;
}

at::ScalarType torch_dtype(config::Precision precision) {
  return precision == config::Precision::kBf16 ? at::kBFloat16 : at::kFloat;
}

/// Weights have the same names and shapes whatever these are, but were trained with one value.
void warn_of_other_arithmetic(const config::ModelConfig& trained, const config::RunConfig& config) {
  config::RunConfig as_trained = config;
  as_trained.model = trained;
  for (const auto& [key, then, now] : config::identity_differences(as_trained, config))
    for (const char* prefix : {"model.num_", "model.head_dim", "model.rope_", "model.rms_norm_eps"})
      if (key.starts_with(prefix))
        log::warn("train.init_from: ", config.train.init_from, " was trained with ", key, "=", then,
                  ", this run has ", now);
}

}  // namespace

config::RunConfig checkpoint_config(const formats::CheckpointReader& checkpoint) {
  return config::parse_run_config(manifest_state(checkpoint)["config"].dump(),
                                  checkpoint.path().string(), checkpoint.path());
}

Session::Session(const config::RunConfig& config, distributed::Communicator& communicator,
                 Inputs inputs)
    : config_(config), inputs_(std::move(inputs)), communicator_(communicator) {
  ops::set_threads(static_cast<int>(config.train.threads));
  const at::Device device = communicator.device();
  open_data();
  batcher_ = std::make_unique<data::Batcher>(*data_, communicator.size());
  if (config.objective.distill > 0) load_teacher();
  student_ = std::make_unique<nn::LlamaForCausalLM>(
      config.model, nn::LlamaOptions{device, torch_dtype(config.train.precision)});
  const bool shard_gradients = config.parallel.shard_gradients && communicator.size() > 1;
  student_->allocate_gradients(layer_gradients(communicator.size(), shard_gradients));
  optimizer_ = std::make_unique<optim::AdamW>(student_->slots(), config.optimizer, communicator,
                                              torch_dtype(config.parallel.gradient_dtype));
  trainer_ = std::make_unique<Trainer>(
      TrainerParts{*student_, teacher_.get(), *optimizer_, communicator, sample_reader()},
      config.objective, config.train, optim::make_schedule(config.optimizer), shard_gradients);
}

void Session::load_teacher() {
  config::TeacherConfig teacher = config_.teacher;
  teacher.path = inputs_.teacher.string();
  teacher_ = distill::load_teacher(teacher, config_.model, config_.train, communicator_,
                                   config_.parallel.shard_teacher);
  if (config_.teacher.dtype != "fp8") return;
  const std::int64_t own = config_.teacher.micro_batch;
  at::Tensor ids =
      at::empty({own > 0 ? own : config_.train.micro_batch, config_.train.seq_len + 1}, at::kInt);
  batcher_->read({0, ids.size(0)},
                 {ids.data_ptr<std::int32_t>(), static_cast<std::size_t>(ids.numel())});
  const at::Tensor inputs =
      ids.slice(1, 0, config_.train.seq_len).to(communicator_.device(), at::kLong);
  teacher_drift_ = distill::store_as_fp8(teacher_->model(), inputs);
}

void Session::open_data() {
  distributed::run_together(communicator_, [&] {
    data_ = data::open_training_data(config_.data, config_.train, config_.model.vocab_size);
    if (communicator_.rank() == 0) check_tokenizers(config_, *data_);
  });
}

SampleReader Session::sample_reader() {
  return [this](std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) {
    batcher_->read({first, count}, ids);
  };
}

std::unique_ptr<formats::ModelSource> open_initial_weights(
    const config::RunConfig& config, distributed::Communicator& communicator) {
  if (config.train.init_from.empty()) return nullptr;
  try {
    auto folder = open_model_together(config.train.init_from, communicator);
    nn::require_latent_weights(folder);
    check_first_tokenizer(config.data, nn::find_tokenizer(config.train.init_from));
    formats::check_tensors(*folder.weights, config.model, formats::Scales::kOptional);
    if (config.model.tie_word_embeddings && !folder.config.tie_word_embeddings &&
        folder.weights->shape(config::kHead))
      throw DataError(concat(folder.path.string(),
                             " has a head of its own, which a model with "
                             "model.tie_word_embeddings=true would lose: set it to false"));
    warn_of_other_arithmetic(folder.config, config);
    return std::move(folder.weights);
  } catch (const DataError& error) {
    throw DataError(concat("train.init_from: ", error.what(),
                           " (it takes a model with the sizes of model.*; empty: random weights)"));
  }
}

void Session::start(std::unique_ptr<formats::ModelSource> weights) {
  const auto source =
      weights ? std::move(weights) : nn::random_weights(config_.model, config_.train.seed);
  nn::LoadReport report;
  for (auto* slot : student_->slots())
    optimizer_->adopt_latent(*slot, nn::load_slot(*slot, *source, report));
  if (report.zero_signs)
    log::warn(source->description(), ": ", report.zero_signs,
              " latent weights are exactly 0; their sign is taken as +1");
}

void Session::restore(const formats::CheckpointReader& checkpoint) {
  const checkpoint::CheckpointTensors tensors(checkpoint);
  for (auto& [name, tensor, row_begin, total_rows, repeated] : optimizer_->named_tensors()) {
    at::Tensor target = repeated ? at::empty_like(tensor) : tensor;
    if (total_rows < 0)
      tensors.load(name, target);
    else
      tensors.load_rows(name, row_begin, row_begin + tensor.size(0), target);
    if (repeated && !target.equal(tensor))
      throw CheckpointError(
          concat(checkpoint.path().string(), ": ", name,
                 " differs from the scales of the layers before it, but model.tie_scales is true"));
  }
  optimizer_->publish();
  trainer_->set_state(
      state_from_json(manifest_state(checkpoint)["train"], checkpoint.path().string()));
}

std::filesystem::path Session::save(const std::filesystem::path& checkpoints) {
  std::vector<checkpoint::TensorPart> parts;
  for (const auto& [name, tensor, row_begin, total_rows, repeated] : optimizer_->named_tensors())
    parts.push_back({name, tensor, row_begin, total_rows});
  formats::CheckpointManifest manifest;
  manifest.step = trainer_->state().step;
  manifest.config_hash = config::identity_hash(config_);
  const Json state = {{"train", state_to_json(trainer_->state())},
                      {"config", Json::parse(config::to_json(config_))},
                      {"inputs", to_json(inputs_)}};
  // Names of files may be any bytes.
  manifest.state_json = state.dump(-1, ' ', false, Json::error_handler_t::replace);
  checkpoint::CommitOptions options;
  // In the middle of failing steps nobody knows which checkpoint is the last good one: all stay.
  options.keep = trainer_->state().skipped_in_row > 0 ? std::numeric_limits<std::int64_t>::max()
                                                      : config_.checkpoint.keep;
  options.keep_every = config_.checkpoint.keep_every;
  return checkpoint::commit_checkpoint(communicator_, checkpoints, std::move(manifest), parts,
                                       options);
}

}  // namespace fbi::train
