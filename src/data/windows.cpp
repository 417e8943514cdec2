#include "data/shard_source.h"
#include "fbi/core/error.h"
#include "fbi/text/tokenizer.h"

namespace fbi::data {
namespace {

/// Null when it cannot be read, which evaluating ids does not need.
std::unique_ptr<text::Tokenizer> readable(const std::filesystem::path& file) {
  try {
    return text::load_tokenizer(file);
  } catch (const DataError&) {
    return nullptr;
  }
}

}  // namespace

std::unique_ptr<SampleSource> open_token_windows(const std::filesystem::path& path,
                                                 std::int64_t vocab_size) {
  if (path.extension() != ".tokens") {
    return open_json_lines(path,
                           {.vocab_size = vocab_size, .bare_arrays = true, .store_index = false});
  }
  auto shard = std::make_unique<ShardSource>(path);
  if (shard->info().vocab_size > vocab_size) {
    throw DataError(concat(path.string(), ": expected a vocabulary of at most ", vocab_size,
                           " (the model's), found ", shard->info().vocab_size));
  }
  return shard;
}

void require_tokenizer(const std::filesystem::path& windows,
                       const std::filesystem::path& tokenizer) {
  if (windows.extension() != ".tokens" || tokenizer.empty()) return;
  const std::filesystem::path beside = text::find_tokenizer(windows.parent_path());
  const auto own = beside.empty() ? nullptr : readable(beside);
  if (!own || formats::TokenShard(windows).info().tokenizer_hash != own->file_hash()) return;
  const auto models = readable(tokenizer);
  const std::string difference = models ? text::difference_of(*own, *models) : "";
  if (difference.empty()) return;
  throw DataError(concat(
      windows.string(), " was prepared with another tokenizer than the model's: ", difference,
      "; prepare its text with that one: fbi-llm prepare --tokenizer ", tokenizer.string()));
}

}  // namespace fbi::data
