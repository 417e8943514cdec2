#include "train/tokenizers.h"

#include <filesystem>

#include "fbi/config/compare.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/nn/model_folder.h"
#include "fbi/text/tokenizer.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

/// Null for one that this program cannot read: training needs none.
std::unique_ptr<text::Tokenizer> readable(const fs::path& file, const char* whose) {
  try {
    return text::load_tokenizer(file);
  } catch (const DataError& error) {
    log::warn(whose, " tokenizer is not compared with others: ", error.what());
    return nullptr;
  }
}

/// `file`: of a model that means by ids what the data mean; may be empty.
void compare_with(const text::Tokenizer& data, const fs::path& file, const char* whose) {
  const auto other = file.empty() ? nullptr : readable(file, whose);
  const std::string difference = other ? text::difference_of(data, *other) : "";
  if (difference.empty()) return;
  throw DataError(
      concat("the data were prepared with another tokenizer than ", whose, ": ", difference,
             "; prepare the data with that one: fbi-llm prepare --tokenizer ", file.string()));
}

}  // namespace

void check_tokenizers(const config::RunConfig& config, const data::TrainingData& data) {
  const auto file = data::find_tokenizer(config.data);
  const auto own = file ? readable(*file, "the data's") : nullptr;
  if (!own) return;
  // Only a warning: the loss does not look at them, but exports tell others where a text ends.
  for (const std::string& conflict :
       config::special_token_conflicts(config.model, own->bos_id(), own->eos_id()))
    log::warn("the data's tokenizer ", file->string(), ": ", conflict,
              "; set the field to the tokenizer's, and in a run that has begun name it in "
              "--allow-change");
  if (!data.tokenizer_hash().empty() && data.tokenizer_hash() != own->file_hash())
    throw DataError(concat(file->string(),
                           " is not the tokenizer that the shards beside it were prepared with "
                           "(XXH3 ",
                           data.tokenizer_hash(), ", found ", own->file_hash(),
                           "); put that one there, or prepare the data again"));
  if (config.objective.distill > 0)
    compare_with(*own, nn::find_tokenizer(config.teacher.path), "the teacher's");
}

void check_first_tokenizer(const config::DataConfig& data, const fs::path& model) {
  const auto file = data::find_tokenizer(data);
  const auto own = file && !model.empty() ? readable(*file, "the data's") : nullptr;
  if (own) compare_with(*own, model, "that of the model");
}

}  // namespace fbi::train
