#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/parallel.h"

namespace fbi::data {

/// Told now and then how far long work has come, in bytes.
using Progress =
    std::function<void(std::string_view what, std::uint64_t done_bytes, std::uint64_t total_bytes)>;

enum class InputFormat {
  kByName,  ///< .jsonl, .ndjson, .json, also with .gz or .zst, are JSON lines, all else is text
  kJsonLines,
  kText
};

/// Documents larger than this, like longer lines, are refused: a tokenizer needs about 100 bytes of
/// memory per byte.
inline constexpr std::uint64_t kMaxDocumentBytes = 64u << 20;
/// A separator of this value also takes "\r\n" and lines of spaces for a blank line.
inline constexpr std::string_view kBlankLine = "\n\n";

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  ///< in this order
  InputFormat format = InputFormat::kByName;
  std::string field;  ///< JSON lines: key of the text; empty: "token_ids", ids taken as they are
  std::string separator{kBlankLine};  ///< text: stands between documents
  std::filesystem::path tokenizer;    ///< file or folder; may be empty for token_ids
  std::int64_t vocab_size = 0;        ///< needed when there is no tokenizer
  std::filesystem::path output;       ///< folder to be made
  std::int64_t seq_len = 2048;        ///< a sample has one id more
  double valid_fraction = 0;          ///< share of documents that go to the validation shards
  std::uint64_t seed = 0;             ///< which ones
  std::uint64_t max_shard_bytes = 2'000'000'000;
  std::int64_t skip_broken = 0;  ///< so many broken lines are left out; one more is an error
};

/// The training or the validation part of what was prepared.
struct PreparedPart {
  std::int64_t documents = 0;
  std::int64_t ids = 0;  ///< of all documents, BOS and EOS included
  std::int64_t samples = 0;
  std::int64_t dropped_ids = 0;  ///< the end that fills no sample
  std::vector<std::string> files;
};

struct PrepareResult {
  bool already_done = false;  ///< the folder held this very preparation; nothing was written
  std::int64_t vocab_size = 0;
  std::string tokenizer_hash;
  std::int64_t broken_documents = 0;  ///< left out
  PreparedPart train, valid;
};

/// Turns documents into shards `train-00000.tokens`, `valid-00000.tokens`, … with `dataset.json`
/// (options, inputs, counts) and a copy of the tokenizer. A text document becomes BOS, its ids,
/// EOS; documents are concatenated and cut into samples of seq_len + 1 ids without overlap. All
/// goes into a temporary folder that is renamed at the end. Input may be packed by gzip or zstd,
/// and is read in pieces; the result depends neither on these nor on the number of threads.
///
/// Throws UsageError (options; pipes; an output folder that holds anything else, or that another
/// process made meanwhile), DataError (unreadable or broken input, named by file and line; files
/// that are no text; less than one training sample), DiskError.
PrepareResult prepare(const PrepareOptions& options, ParallelFor& parallel,
                      const Progress& progress = {});

/// For command lines: replaces \n, \t, \r and \\ in `text`. UsageError on another escape.
std::string unescape_separator(std::string_view text);

}  // namespace fbi::data
