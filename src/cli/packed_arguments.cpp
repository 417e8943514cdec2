#include "cli/packed_arguments.h"

#include <map>
#include <ranges>

#include "fbi/core/error.h"
#include "fbi/formats/checksums.h"

namespace fbi::cli {
namespace {

/// The value that an option's text names; UsageError listing the choices.
template <class Value>
Value choice(const Arguments& arguments, const std::string& name,
             const std::map<std::string, Value>& choices) {
  const std::string text = arguments.text(name);
  const auto found = choices.find(text);
  if (found != choices.end()) return found->second;
  throw UsageError(concat("--", name, ": expected one of ", join(choices | std::views::keys),
                          "; found '", text, "'"));
}

/// What lies at --model is no export, or none yet.
void refuse_other(const std::filesystem::path& model) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(model, ignored))
    throw DataError(concat(model.string(),
                           " is not a folder; expected a packed export (fbi-llm "
                           "export --format packed) or a native one"));
  const bool tensors = std::filesystem::exists(model / "model.safetensors", ignored) ||
                       std::filesystem::exists(model / "model.safetensors.index.json", ignored);
  if (!tensors && std::filesystem::exists(model / "model.gguf", ignored))
    throw UsageError(concat(model.string(),
                            " is a GGUF export, for llama.cpp; export the model with "
                            "--format packed"));
  const bool run = std::filesystem::is_directory(model / "checkpoints", ignored);
  if (!run && !std::filesystem::exists(model / "manifest.json", ignored)) return;
  throw UsageError(concat(model.string(), " is a ", run ? "run" : "checkpoint",
                          "; pack it: fbi-llm export --checkpoint ", model.string(),
                          " --format packed --out DIR"));
}

}  // namespace

std::vector<Option> joined(std::vector<Option> options, const std::vector<Option>& more) {
  options.insert(options.end(), more.begin(), more.end());
  return options;
}

std::vector<Option> packed_options() {
  return {{"activations", "KIND", "exact: fp32; int8: rounded per 255 inputs, faster", "exact"},
          {"head", "TYPE", "stored, fp32, fp16 or int8 (one scale per row, faster)", "stored"},
          {"cache", "TYPE", "keys and values in fp32 or fp16", "fp32"}};
}

Option device_option() {
  return {"device", "NAME", "auto, cpu or cuda", "auto"};
}

Option head_screen_option() {
  return {"head-screen", "on/off",
          "on: an 8-bit copy of the head tells the tokens that cannot be drawn, so that with "
          "greedy, top-k or min-p decoding a few rows of the head are read in place of all; the "
          "text is the same",
          "on"};
}

std::vector<Option> packed_model_options() {
  return joined({{"model", "DIR", "packed export (fbi-llm export --format packed), or a native one",
                  "", true},
                 {"tokenizer", "FILE",
                  "tokenizer.model or tokenizer.json; default: the one in the model's folder"},
                 {"threads", "N", "0: all processors", "0"},
                 device_option()},
                packed_options());
}

infer::PackedOptions packed_options_of(const Arguments& arguments) {
  if (arguments.has("model")) refuse_other(arguments.text("model"));
  infer::PackedOptions options;
  options.threads = arguments.threads();
  options.activations = choice<kernels::Activations>(
      arguments, "activations",
      {{"exact", kernels::Activations::kExact}, {"int8", kernels::Activations::kInt8}});
  options.head = choice<std::optional<kernels::Storage>>(arguments, "head",
                                                         {{"stored", std::nullopt},
                                                          {"fp32", kernels::Storage::kFp32},
                                                          {"fp16", kernels::Storage::kFp16},
                                                          {"int8", kernels::Storage::kInt8}});
  options.head_screen = arguments.has("head-screen") &&
                        choice<bool>(arguments, "head-screen", {{"on", true}, {"off", false}});
  options.cache = choice<kernels::CacheType>(
      arguments, "cache",
      {{"fp32", kernels::CacheType::kFp32}, {"fp16", kernels::CacheType::kFp16}});
  options.device = choice<infer::Device>(arguments, "device",
                                         {{"auto", infer::Device::kAuto},
                                          {"cpu", infer::Device::kCpu},
                                          {"cuda", infer::Device::kCuda}});
  return options;
}

std::unique_ptr<text::Tokenizer> load_fitting_tokenizer(const Arguments& arguments,
                                                        const std::filesystem::path& model,
                                                        const std::filesystem::path& own,
                                                        std::int64_t vocab_size) {
  const std::filesystem::path path =
      arguments.has("tokenizer") ? std::filesystem::path(arguments.text("tokenizer")) : own;
  if (path.empty())
    throw DataError(concat(model.string(),
                           " has no tokenizer.model and no tokenizer.json beside it; name one with "
                           "--tokenizer"));
  auto tokenizer = text::load_tokenizer(path);
  if (tokenizer->vocab_size() > vocab_size)
    throw DataError(concat(path.string(), " has ", tokenizer->vocab_size(),
                           " pieces, the model of ", model.string(), " only ", vocab_size,
                           "; this is another model's tokenizer"));
  return tokenizer;
}

std::unique_ptr<text::Tokenizer> load_packed_tokenizer(const Arguments& arguments,
                                                       const infer::PackedModel& model) {
  const std::filesystem::path folder = arguments.text("model");
  const std::filesystem::path own = text::find_tokenizer(folder);
  if (!arguments.has("tokenizer")) {
    const formats::Checksums checksums(folder);
    checksums.check(own.filename().string());
    // It names the special tokens of the other one.
    if (own.extension() == ".json") checksums.check("tokenizer_config.json");
  }
  return load_fitting_tokenizer(arguments, folder, own, model.vocab_size());
}

}  // namespace fbi::cli
