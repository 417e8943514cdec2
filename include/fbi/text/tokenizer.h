#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::text {

/// Values are those of SentencePiece's model file and of GGUF's tokenizer.ggml.token_type.
enum class PieceType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// Turns ids into text one at a time. What `feed` returns is always whole UTF-8 characters: the
/// bytes of a character that spans several ids are held back until it is complete. All returned
/// strings together equal Tokenizer::decode.
class StreamDecoder {
 public:
  virtual ~StreamDecoder() = default;
  /// Throws UsageError on an id outside the vocabulary.
  virtual std::string feed(std::int32_t id) = 0;
  /// The end of the stream: bytes still held back, as U+FFFD each.
  virtual std::string finish() = 0;
};

/// A vocabulary and the way text is cut into it. Const members may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Without BOS and EOS; text such as "<s>" is text, never a control piece. Invalid UTF-8 is read
  /// as U+FFFD.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// Control pieces give nothing. Throws UsageError on an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  virtual std::unique_ptr<StreamDecoder> start_decoding() const = 0;

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int32_t bos_id() const = 0;
  virtual std::int32_t eos_id() const = 0;
  virtual std::optional<std::int32_t> unk_id() const = 0;  ///< byte-level tokenizers have none
  virtual std::optional<std::int32_t> pad_id() const = 0;

  /// The piece as the file spells it ("▁the", "<0x0A>"), its score and type. Throw UsageError on an
  /// id outside the vocabulary.
  virtual const std::string& piece(std::int32_t id) const = 0;
  virtual float score(std::int32_t id) const = 0;
  virtual PieceType type(std::int32_t id) const = 0;
  /// Whether encode puts a space before the text (GGUF's tokenizer.ggml.add_space_prefix).
  virtual bool adds_space_prefix() const = 0;
  /// Empty when a Hugging Face tokenizer.json can give the same ids for any text, else why not.
  virtual std::string why_no_tokenizer_json() const = 0;

  /// The file it came from: path, content, and XXH3-128 of the content in hexadecimal (recorded in
  /// prepared shards).
  virtual const std::filesystem::path& path() const = 0;
  virtual const std::string& file_bytes() const = 0;
  virtual const std::string& file_hash() const = 0;
};

/// Where two vocabularies differ, of which one text is to get the same ids: `id 5 is "a" in FILE
/// and "b" in FILE`; empty when nowhere. By their pieces, for one tokenizer may lie in files of
/// several kinds, or have pieces added behind.
std::string difference_of(const Tokenizer& one, const Tokenizer& other);

/// A sound file of a kind of tokenizer that is not implemented.
struct OtherTokenizer : DataError {
  using DataError::DataError;
};

/// A SentencePiece model, a `tokenizer.json` of byte-level BPE (Llama-3, GPT-2, SmolLM; its BOS and
/// EOS are named by tokenizer_config.json beside it), or a folder that holds one of them. Throws
/// DataError: missing, broken, without BOS or EOS; OtherTokenizer: another kind of tokenizer.json.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// `tokenizer.model`, else `tokenizer.json` in a folder; empty when it has neither.
std::filesystem::path find_tokenizer(const std::filesystem::path& folder);
/// Writes the tokenizer's own files (tokenizer.model, or tokenizer.json and tokenizer_config.json)
/// into an existing folder. Throws DiskError.
void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);
/// The same for a tokenizer's file that need not be read.
void copy_tokenizer(const std::filesystem::path& file, const std::filesystem::path& folder);

}  // namespace fbi::text
