#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/data/prepare.h"
#include "fbi/formats/token_shard.h"
#include "support/temp_dir.h"
#include "support/write_text.h"
#include "text/small_tokenizer.h"

namespace fbi::test {

inline std::vector<std::int32_t> ids_of_shards(const std::filesystem::path& folder,
                                               const std::vector<std::string>& files) {
  std::vector<std::int32_t> ids;
  for (const std::string& file : files) {
    const formats::TokenShard shard(folder / file, true);
    std::vector<std::int32_t> sample(shard.info().ids_per_sample);
    for (std::uint64_t k = 0; k < shard.info().sample_count; ++k) {
      shard.read(k, sample);
      ids.insert(ids.end(), sample.begin(), sample.end());
    }
  }
  return ids;
}

class PrepareFixture : public ::testing::Test {
 protected:
  PrepareFixture() {
    options_.tokenizer = tokenizer_.path();
    options_.output = folder_ / "out";
    options_.seq_len = 7;
  }
  void input(const std::string& name, const std::string& text) {
    test::write_text(folder_ / name, text);
    options_.inputs.push_back(folder_ / name);
  }
  data::PrepareResult run() {
    SerialFor serial;
    return data::prepare(options_, serial);
  }
  /// token_ids without a tokenizer.
  void ids_only(std::int64_t vocab_size) {
    options_.tokenizer.clear();
    options_.vocab_size = vocab_size;
  }
  std::vector<std::int32_t> document(const std::string& text) {
    auto ids = tokenizer_->encode(text);
    ids.insert(ids.begin(), 1);
    ids.push_back(2);
    return ids;
  }

  const test::SmallTokenizer& tokenizer_ = test::SmallTokenizer::instance();
  test::TempDir folder_;
  data::PrepareOptions options_;
};

}  // namespace fbi::test
