#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace fbi::data {

/// One file of samples, all of the same number of ids. Const members may be called from several
/// threads.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  /// May read the whole file at its first call (JSON lines without an index).
  virtual std::int64_t sample_count() const = 0;
  virtual std::int64_t ids_per_sample() const = 0;
  /// out.size() == ids_per_sample(). Throws DataError naming file and sample when the sample is
  /// broken, UsageError when `sample` or `out` do not fit.
  virtual void read(std::int64_t sample, std::span<std::int32_t> out) const = 0;
  virtual const std::filesystem::path& path() const = 0;
};

struct JsonLinesOptions {
  std::int64_t ids_per_sample = 0;  ///< 0: as many as the first line has
  std::int64_t vocab_size = 0;
  bool bare_arrays = false;           ///< a line may also be the array alone
  bool store_index = true;            ///< keep the line index in a file; else in memory only
  std::filesystem::path index_dir{};  ///< where that file goes; empty: beside the data
};

/// JSON lines `{"token_ids": [...]}` as published for Amber: the file stays on disk, an index of
/// line offsets is built once and kept, keyed by size, time and a hash of head and tail of the
/// data. Lines may end in \r\n, empty lines at the end are ignored. The first line is checked here.
/// A folder that can't be written gives a warning and an index in memory. The log says how far an
/// index has come that takes long.
std::unique_ptr<SampleSource> open_json_lines(const std::filesystem::path& path,
                                              const JsonLinesOptions& options);

/// Windows for evaluation: a prepared shard (`*.tokens`), or JSON lines, a window each (an array,
/// or {"token_ids": [...]}), all of one length. Every id must be below vocab_size.
std::unique_ptr<SampleSource> open_token_windows(const std::filesystem::path& path,
                                                 std::int64_t vocab_size);
/// DataError when a shard was prepared with another tokenizer than `tokenizer`, a model's file, so
/// that its ids mean other text; as far as the shard's own lies beside it and both can be read.
void require_tokenizer(const std::filesystem::path& windows,
                       const std::filesystem::path& tokenizer);

}  // namespace fbi::data
