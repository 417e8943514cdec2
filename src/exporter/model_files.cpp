#include "exporter/model_files.h"

#include <nlohmann/json.hpp>

#include "fbi/config/compare.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/exporter/fold.h"

namespace fbi::exporter {

void write_model_configuration(const std::filesystem::path& directory,
                               const config::ModelConfig& model, formats::DType dtype,
                               config::ModelName name) {
  write_file(directory / "config.json",
             config::model_config_to_hf_json(model, torch_dtype_name(dtype), name));
  nlohmann::ordered_json generation = {{"_from_model_config", true},
                                       {"bos_token_id", model.bos_token_id}};
  if (model.eos_token_id.size() == 1) {
    generation["eos_token_id"] = model.eos_token_id.front();
  } else if (!model.eos_token_id.empty()) {
    generation["eos_token_id"] = model.eos_token_id;
  }
  if (model.pad_token_id) generation["pad_token_id"] = *model.pad_token_id;
  write_file(directory / "generation_config.json", generation.dump(2) + "\n");
}

std::vector<std::string> check_tokenizer_fits(const text::Tokenizer* tokenizer,
                                              const config::ModelConfig& model) {
  if (!tokenizer) return {};
  const std::string name = concat("the tokenizer ", tokenizer->path().string());
  if (tokenizer->vocab_size() > model.vocab_size) {
    throw UsageError(concat(name, " has ", tokenizer->vocab_size(),
                            " pieces, the model's vocabulary ", model.vocab_size,
                            "; it belongs to another model"));
  }
  std::vector<std::string> warnings =
      config::special_token_conflicts(model, tokenizer->bos_id(), tokenizer->eos_id());
  for (std::string& warning : warnings)
    warning = concat(name, ": ", warning,
                     ", which config.json and generation_config.json of the export have; they tell "
                     "others where a text ends");
  return warnings;
}

void copy_tokenizer_files(const std::filesystem::path& source,
                          const std::filesystem::path& target) {
  for (const char* name : {"tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"}) {
    if (std::filesystem::exists(source / name)) write_file(target / name, read_file(source / name));
  }
}

}  // namespace fbi::exporter
