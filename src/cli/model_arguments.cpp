#include "cli/model_arguments.h"

#include "fbi/core/error.h"
#include "fbi/ops/device.h"
#include "fbi/ops/parallel.h"

namespace fbi::cli {

std::vector<Option> model_options() {
  return {{"model", "DIR", "run directory, checkpoint, export or Hugging Face folder", "", true, false},
          {"tokenizer", "FILE", "tokenizer.model; default: the one in the model's folder", "", false, false},
          {"dtype", "TYPE", "fp32, bf16 or fp16: what weights are rounded to", "fp32", false, false},
          {"device", "NAME", "auto, cpu or cuda", "auto", false, false},
          {"threads", "N", "0: all processors", "0", false, false}};
}

LoadedModel load_model(const Arguments& arguments) {
  ops::set_threads(arguments.threads());
  const at::Device device = ops::choose_device(arguments.text("device"), 0);
  const auto dtype = nn::evaluation_dtype(arguments.text("dtype"), device);
  LoadedModel loaded{nn::open_model_folder(arguments.text("model")), nullptr};
  loaded.model = nn::load_for_evaluation(loaded.folder, dtype, device);
  return loaded;
}

std::unique_ptr<text::Tokenizer> load_model_tokenizer(const Arguments& arguments, const nn::ModelFolder& folder) {
  const std::filesystem::path path =
      arguments.has("tokenizer") ? std::filesystem::path(arguments.text("tokenizer")) : folder.tokenizer;
  if (path.empty())
    throw DataError(concat(folder.path.string(), " has no tokenizer.model beside it; name one with --tokenizer"));
  auto tokenizer = text::load_tokenizer(path);
  if (tokenizer->vocab_size() > folder.config.vocab_size)
    throw DataError(concat(path.string(), " has ", tokenizer->vocab_size(), " pieces, the model of ", folder.path.string(), " only ",
                           folder.config.vocab_size, "; this is another model's tokenizer"));
  return tokenizer;
}

}  // namespace fbi::cli
