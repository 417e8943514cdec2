#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fbi/core/file.h"

namespace fbi::formats {

/// Header fields of a prepared token shard (`*.tokens`): fixed little-endian layout, documented in
/// docs/formats.md.
struct TokenShardInfo {
  std::uint32_t vocab_size = 0;
  std::uint32_t ids_per_sample = 0;  ///< seq_len + 1
  std::uint64_t sample_count = 0;
  std::string tokenizer_hash;  ///< XXH3-128 of the tokenizer file, hexadecimal; empty when unknown
  std::string samples_hash{};  ///< XXH3-128 of all samples, as it was written; set by the writer
};

/// Memory-mapped samples of ids_per_sample ids each (u16 when vocab_size <= 65536, else u32).
class TokenShard {
 public:
  /// Checks magic, version, sizes against the file and ids < vocab_size lazily (in read);
  /// `verify_hash` reads it all. Throws DataError naming the file and what is wrong.
  explicit TokenShard(const std::filesystem::path& path, bool verify_hash = false);
  const TokenShardInfo& info() const { return info_; }
  /// out.size() == ids_per_sample. Throws DataError (file, sample, position, value) on an id
  /// outside the vocabulary.
  void read(std::uint64_t sample, std::span<std::int32_t> out) const;

 private:
  MappedFile file_;
  TokenShardInfo info_;
  std::size_t header_bytes_ = 0;
  int id_bytes_ = 2;
};

/// Streams samples into a shard; `finish` writes header and hash and commits the file durably.
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, TokenShardInfo info);
  ~TokenShardWriter();
  void add(std::span<const std::int32_t> ids);
  TokenShardInfo finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi::formats
