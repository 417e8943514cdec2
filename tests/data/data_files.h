#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fbi/data/sample_source.h"
#include "fbi/formats/token_shard.h"
#include "support/write_text.h"

namespace fbi::test {

/// {"token_ids": [first, first + 1, …]}
inline std::string token_line(int first, int count) {
  std::string line = "{\"token_ids\": [";
  for (int k = 0; k < count; ++k) line += (k ? ", " : "") + std::to_string(first + k);
  return line + "]}";
}

/// Sample k holds first + k in every place.
inline void write_shard(const std::filesystem::path& path, int samples, int ids_per_sample,
                        int first = 0, std::uint32_t vocab_size = 1000,
                        const std::string& tokenizer_hash = "") {
  formats::TokenShardWriter writer(
      path, {vocab_size, static_cast<std::uint32_t>(ids_per_sample), 0, tokenizer_hash});
  for (int k = 0; k < samples; ++k)
    writer.add(std::vector<std::int32_t>(ids_per_sample, first + k));
  writer.finish();
}

inline std::vector<std::int32_t> read_sample(const data::SampleSource& source,
                                             std::int64_t sample) {
  std::vector<std::int32_t> ids(source.ids_per_sample());
  source.read(sample, ids);
  return ids;
}

}  // namespace fbi::test
