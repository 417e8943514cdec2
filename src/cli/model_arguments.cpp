#include "cli/model_arguments.h"

#include "cli/packed_arguments.h"
#include "fbi/core/error.h"
#include "fbi/ops/device.h"
#include "fbi/ops/parallel.h"
#include "fbi/train/open_model.h"

namespace fbi::cli {

std::vector<Option> model_options() {
  return {{"model", "DIR", "run directory, checkpoint, export or Hugging Face folder", "", true},
          {"tokenizer", "FILE",
           "tokenizer.model or tokenizer.json; default: the one in the model's folder"},
          {"dtype", "TYPE", "fp32, bf16 or fp16: what weights are rounded to", "fp32"},
          {"device", "NAME", "auto, cpu or cuda", "auto"},
          {"threads", "N", "0: all processors", "0"}};
}

void refuse_packed_options(const Arguments& arguments) {
  arguments.refuse({"activations", "head", "cache", "head-screen"},
                   concat("is for packed exports, and ", arguments.text("model"),
                          " is none; --dtype says what its weights are rounded to"));
}

void refuse_unpacked_options(const Arguments& arguments) {
  arguments.refuse({"dtype"}, concat("is for other models, and ", arguments.text("model"),
                                     " is a packed export; --activations, --head and --cache say "
                                     "how it is run"));
}

LoadedModel load_model(const Arguments& arguments) {
  return load_model(arguments, *distributed::make_single_rank(), 0);
}

LoadedModel load_model(const Arguments& arguments, distributed::Communicator& communicator,
                       int local_rank) {
  ops::set_threads(arguments.threads());
  const at::Device device = ops::choose_device(arguments.text("device"), local_rank);
  const auto dtype = nn::evaluation_dtype(arguments.text("dtype"), device);
  LoadedModel loaded{train::open_model_together(arguments.text("model"), communicator), nullptr};
  loaded.model = nn::load_for_evaluation(loaded.folder, dtype, device);
  return loaded;
}

std::unique_ptr<text::Tokenizer> load_model_tokenizer(const Arguments& arguments,
                                                      const nn::ModelFolder& folder) {
  return load_fitting_tokenizer(arguments, folder.path, folder.tokenizer, folder.config.vocab_size);
}

}  // namespace fbi::cli
