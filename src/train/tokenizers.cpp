#include "train/tokenizers.h"

#include <algorithm>
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

/// Control pieces but for these two never stand in data, and have other names in later versions.
bool counts(const text::Tokenizer& tokenizer, std::int32_t id) {
  return tokenizer.type(id) != text::PieceType::kControl || id == tokenizer.bos_id() ||
         id == tokenizer.eos_id();
}

/// By their pieces: one tokenizer may lie in files of several kinds, or have pieces added behind.
void require_same_pieces(const text::Tokenizer& data, const text::Tokenizer& teacher) {
  const auto shared = static_cast<std::int32_t>(std::min(data.vocab_size(), teacher.vocab_size()));
  for (std::int32_t id = 0; id < shared; ++id) {
    if (data.piece(id) == teacher.piece(id) || !(counts(data, id) || counts(teacher, id))) continue;
    throw DataError(concat("the data were prepared with another tokenizer than the teacher's: id ",
                           id, " is \"", data.piece(id), "\" in ", data.path().string(), " and \"",
                           teacher.piece(id), "\" in ", teacher.path().string(),
                           "; prepare the data with the teacher's: fbi-llm prepare --tokenizer ",
                           teacher.path().string()));
  }
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
  if (config.objective.distill <= 0) return;
  const fs::path of_teacher = nn::find_tokenizer(config.teacher.path);
  const auto teacher = of_teacher.empty() ? nullptr : readable(of_teacher, "the teacher's");
  if (teacher && teacher->file_hash() != own->file_hash()) require_same_pieces(*own, *teacher);
}

}  // namespace fbi::train
