#include "data/shard_source.h"
#include "fbi/core/error.h"

namespace fbi::data {

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

}  // namespace fbi::data
