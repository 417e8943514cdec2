#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fbi::text {

/// What a LLaMA tokenizer is: BPE, byte fallback, digits one by one, no normalisation, all spaces
/// kept, a space put before the text, unk 0, bos 1, eos 2, no pad.
struct SentencePieceTraining {
  std::vector<std::filesystem::path> inputs;  ///< UTF-8 texts (TextFile); a line is a sentence
  std::filesystem::path output;               ///< the .model file
  std::int64_t vocab_size = 32000;            ///< 3 special pieces and 256 byte pieces included
  /// Share of characters with a piece of their own; the rest become bytes.
  double character_coverage = 0.9995;
};

/// Trains and writes `output` durably; the same inputs give the same bytes. Throws UsageError
/// (vocab_size or coverage out of range), DataError (input missing, or too small for the
/// vocabulary), DiskError.
void train_sentencepiece(const SentencePieceTraining& options);

}  // namespace fbi::text
