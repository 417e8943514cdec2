#include "fbi/formats/token_shard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::formats {
namespace {

using test::expect_error;
using Ids = std::vector<std::int32_t>;
const std::string kTokenizerHash = "0123456789abcdef0123456789abcdef";

class TokenShards : public testing::Test {
 protected:
  void write(std::uint32_t vocab_size, const std::vector<Ids>& samples,
             const std::string& tokenizer_hash = "") {
    TokenShardWriter writer(path_, {vocab_size, 3, 0, tokenizer_hash});
    for (const auto& ids : samples) writer.add(ids);
    EXPECT_EQ(writer.finish().sample_count, samples.size());
  }
  Ids read(const TokenShard& shard, std::uint64_t sample) {
    Ids ids(shard.info().ids_per_sample);
    shard.read(sample, ids);
    return ids;
  }
  template <class... Parts>
  void expect_refused(bool verify_hash, const Parts&... parts) {
    expect_error<DataError>([&] { TokenShard shard(path_, verify_hash); }, path_.string(),
                            parts...);
  }
  /// Replaces a number of the header and makes its hash right again: what a faulty program could
  /// write.
  template <class T>
  void forge(std::size_t offset, T value) {
    patch(path_, offset, {reinterpret_cast<const char*>(&value), sizeof value});
    const std::uint64_t hash = hash64(read_file(path_).substr(0, 120));
    patch(path_, 120, {reinterpret_cast<const char*>(&hash), sizeof hash});
  }

  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "train.tokens";
};

TEST_F(TokenShards, RoundTripAtTheBoundaryOfTheIdSize) {
  write(65536, {{0, 1, 65535}, {3, 4, 5}}, kTokenizerHash);
  {
    const TokenShard shard(path_, true);
    EXPECT_EQ(shard.info().vocab_size, 65536u);
    EXPECT_EQ(shard.info().ids_per_sample, 3u);
    EXPECT_EQ(shard.info().sample_count, 2u);
    EXPECT_EQ(shard.info().tokenizer_hash, kTokenizerHash);
    EXPECT_EQ(read(shard, 0), (Ids{0, 1, 65535}));
    EXPECT_EQ(read(shard, 1), (Ids{3, 4, 5}));
    EXPECT_EQ(std::filesystem::file_size(path_), 128 + 2 * 3 * 2u);
  }
  write(65537, {{0, 1, 65536}});
  const TokenShard shard(path_, true);
  EXPECT_EQ(read(shard, 0), (Ids{0, 1, 65536}));
  EXPECT_EQ(shard.info().tokenizer_hash, "");
  EXPECT_EQ(std::filesystem::file_size(path_), 128 + 3 * 4u);
}

TEST_F(TokenShards, LayoutIsAsDocumented) {
  write(300, {{1, 2, 299}}, kTokenizerHash);
  const std::string text = read_file(path_);
  const auto number = [&](std::size_t offset, auto value) {
    std::memcpy(&value, text.data() + offset, sizeof value);
    return value;
  };
  EXPECT_EQ(text.substr(0, 8), "FBITOKEN");
  EXPECT_EQ(number(8, std::uint32_t{}), 1u);
  EXPECT_EQ(number(12, std::uint32_t{}), 2u);
  EXPECT_EQ(number(16, std::uint32_t{}), 300u);
  EXPECT_EQ(number(20, std::uint32_t{}), 3u);
  EXPECT_EQ(number(24, std::uint64_t{}), 1u);
  EXPECT_EQ(text.substr(32, 32), kTokenizerHash);
  EXPECT_EQ(text.substr(64, 32), hash128_hex(bytes_of(text.substr(128))));
  EXPECT_EQ(TokenShard(path_).info().samples_hash, text.substr(64, 32));
  EXPECT_EQ(text.substr(96, 24), std::string(24, '\0'));
  EXPECT_EQ(number(120, std::uint64_t{}), hash64(std::string_view(text).substr(0, 120)));
  EXPECT_EQ(text.substr(128), std::string("\1\0\2\0\x2b\1", 6));
}

TEST_F(TokenShards, LargerThanTheWriteBuffer) {
  constexpr int kSamples = 200'000;
  {
    TokenShardWriter writer(path_, {1000, 4, 99, ""});
    for (int i = 0; i < kSamples; ++i) writer.add(Ids{i % 1000, i % 7, i % 11, i % 13});
    EXPECT_EQ(writer.finish().sample_count, static_cast<std::uint64_t>(kSamples));
  }
  const TokenShard shard(path_, true);
  for (int i = 0; i < kSamples; i += 777) {
    EXPECT_EQ(read(shard, static_cast<std::uint64_t>(i)), (Ids{i % 1000, i % 7, i % 11, i % 13}));
  }
}

TEST_F(TokenShards, EmptyShard) {
  write(10, {});
  EXPECT_EQ(TokenShard(path_, true).info().sample_count, 0u);
}

TEST_F(TokenShards, WithoutFinishNothingRemains) {
  {
    TokenShardWriter writer(path_, {10, 3, 0, ""});
    writer.add(Ids{1, 2, 3});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(TokenShards, WriterRefusals) {
  expect_error<UsageError>(
      [&] {
        TokenShardWriter(path_, {0, 3, 0, ""});
      },
      path_.string(), "found 0 and 3");
  expect_error<UsageError>([&] { TokenShardWriter(path_, {10, 0, 0, ""}); }, "found 10 and 0");
  expect_error<UsageError>([&] { TokenShardWriter(path_, {1u << 31, 3, 0, ""}); }, "2147483647");
  expect_error<UsageError>(
      [&] {
        TokenShardWriter(path_, {10, 3, 0, "ABC"});
      },
      "32 hexadecimal digits", "ABC");
  TokenShardWriter writer(path_, {10, 3, 0, ""});
  writer.add(Ids{1, 2, 3});
  expect_error<DataError>([&] { writer.add(Ids{1, 2}); }, "sample 1", "expected 3 ids, found 2");
  expect_error<DataError>(
      [&] {
        writer.add(Ids{1, 10, 2});
      },
      "sample 1, position 1", "from 0 to 9, found 10");
  expect_error<DataError>([&] { writer.add(Ids{1, 2, -1}); }, "position 2", "found -1");
  EXPECT_EQ(writer.finish().sample_count, 1u) << "a refused sample leaves no trace";
  EXPECT_EQ(read(TokenShard(path_, true), 0), (Ids{1, 2, 3}));
}

TEST_F(TokenShards, ReadRefusals) {
  write(10, {{1, 2, 3}});
  const TokenShard shard(path_);
  Ids ids(3), few(2);
  expect_error<UsageError>([&] { shard.read(1, ids); }, "sample below 1", "found sample 1");
  expect_error<UsageError>([&] { shard.read(~0ull, ids); }, "sample below 1");
  expect_error<UsageError>([&] { shard.read(0, few); }, "room for 3 ids", "room for 2");
}

TEST_F(TokenShards, EveryTruncationIsRefused) {
  write(10, {{1, 2, 3}, {4, 5, 6}});
  const std::string whole = read_file(path_);
  write_file(path_, whole + std::string(6, '\0'));
  expect_refused(false, "expected 2 samples of 6 bytes, found 18 bytes");
  std::filesystem::resize_file(path_, 138);
  expect_refused(false, "expected 2 samples of 6 bytes, found 10 bytes", "cut short or extended");
  std::filesystem::resize_file(path_, 50);
  expect_refused(false, "at least 128 bytes, found 50");
  write_file(path_, whole);
  for (std::size_t bytes = whole.size(); bytes-- > 0;) {
    std::filesystem::resize_file(path_, bytes);
    EXPECT_THROW(TokenShard shard(path_), DataError) << bytes;
  }
}

TEST_F(TokenShards, EveryAlteredHeaderByteIsRefused) {
  write(10, {{1, 2, 3}}, kTokenizerHash);
  for (std::size_t offset = 0; offset < 128; ++offset) {
    flip_bit(path_, offset);
    EXPECT_THROW(TokenShard shard(path_), DataError) << offset;
    flip_bit(path_, offset);
  }
  flip_bit(path_, 0);
  expect_refused(false, "does not begin with FBITOKEN");
  flip_bit(path_, 0);
  flip_bit(path_, 17);
  expect_refused(false, "header has been altered");
}

TEST_F(TokenShards, AlteredSamples) {
  write(10, {{1, 2, 3}, {4, 5, 6}});
  flip_bit(path_, 128);
  EXPECT_EQ(read(TokenShard(path_), 0), (Ids{0, 2, 3})) << "only the hash can see this";
  expect_refused(true, "samples have been altered", "expected XXH3");
  flip_bit(path_, 128 + 6 + 3);
  const TokenShard shard(path_);
  expect_error<DataError>([&] { read(shard, 1); }, path_.string(), "sample 1, position 1",
                          "expected an id below 10, found 261");
}

TEST_F(TokenShards, ForgedHeaders) {
  write(10, {{1, 2, 3}});
  const auto refused = [&](std::size_t offset, auto value, auto... parts) {
    forge(offset, value);
    expect_refused(false, parts...);
    write(10, {{1, 2, 3}});
  };
  refused(8, std::uint32_t{2}, "expected token shard version 1, found 2");
  refused(12, std::uint32_t{4}, "expected 2 bytes per id", "found 4");
  refused(16, std::uint32_t{0}, "found 0");
  refused(16, std::uint32_t{1u << 31}, "found 2147483648");
  refused(20, std::uint32_t{0}, "at least 1 id per sample");
  refused(20, std::uint32_t{0xffffffff}, "samples of 8589934590 bytes");
  // 6 bytes per sample times this is 6 modulo 2^64.
  refused(24, (std::uint64_t{1} << 63) + 1, "expected 9223372036854775809 samples");
  refused(32, 'X', "tokenizer hash is not hexadecimal");
}

}  // namespace
}  // namespace fbi::formats
