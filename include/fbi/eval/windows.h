#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "fbi/data/sample_source.h"
#include "fbi/text/tokenizer.h"

/// The pieces of text that a model is evaluated on.
namespace fbi::eval {

/// Windows of `length` ids each, read one at a time so that a set larger than memory can be
/// evaluated.
struct WindowSource {
  std::int64_t count = 0;
  std::int64_t length = 0;  ///< S ids, hence S-1 predictions
  /// Fills out ([length]) with window `index`.
  std::function<void(std::int64_t index, std::span<std::int32_t> out)> read;
};

/// A text as one document: BOS, then its ids. Spelled special tokens, such as "<unk>", are their
/// ids, as with the tokenizer of the published evaluation. DataError when the text is too large to
/// be tokenized at once.
std::vector<std::int32_t> text_tokens(const text::Tokenizer& tokenizer, std::string_view text);

/// Cuts a token stream into windows of `length`; the tail that fills none is dropped. `max_tokens`
/// > 0 first shortens the stream to that many ids. UsageError when there is not one whole window.
WindowSource stream_windows(std::vector<std::int32_t> ids, std::int64_t length,
                            std::int64_t max_tokens = 0);

/// The samples of a file (data::open_token_windows), all ids of one being a window: the S+1 ids of
/// a prepared sample are S predictions. DataError when the file has no sample.
WindowSource sample_windows(std::shared_ptr<const data::SampleSource> samples);

}  // namespace fbi::eval
