#include "fbi/eval/windows.h"

#include <algorithm>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/data/prepare.h"

namespace fbi::eval {

std::vector<std::int32_t> text_tokens(const text::Tokenizer& tokenizer, std::string_view text) {
  if (text.size() > data::kMaxDocumentBytes) {
    throw DataError(concat("a text of ", format_bytes(text.size()),
                           " is too large to be tokenized as one document (limit ",
                           format_bytes(data::kMaxDocumentBytes), "); evaluate a part of it"));
  }
  std::vector<std::int32_t> ids = tokenizer.encode(text);
  ids.insert(ids.begin(), tokenizer.bos_id());
  return ids;
}

WindowSource stream_windows(std::vector<std::int32_t> ids, std::int64_t length,
                            std::int64_t max_tokens) {
  if (length < 2) throw UsageError(concat("seq_len must be at least 2, found ", length));
  if (max_tokens < 0) {
    throw UsageError(concat("max_tokens must be 0 (all) or positive, found ", max_tokens));
  }
  auto available = static_cast<std::int64_t>(ids.size());
  if (max_tokens > 0) available = std::min(available, max_tokens);
  const std::int64_t count = available / length;
  if (count == 0) {
    throw UsageError(concat("the text has ", available, " tokens, fewer than one window of ",
                            length, "; use a longer text or a smaller seq_len"));
  }
  const auto stream = std::make_shared<const std::vector<std::int32_t>>(std::move(ids));
  return {count, length, [stream, length](std::int64_t index, std::span<std::int32_t> out) {
            std::copy_n(stream->begin() + index * length, length, out.begin());
          }};
}

WindowSource sample_windows(std::shared_ptr<const data::SampleSource> samples) {
  const std::int64_t count = samples->sample_count();
  if (count == 0) throw DataError(concat(samples->path().string(), " has no sample"));
  const std::int64_t length = samples->ids_per_sample();
  return {count, length,
          [samples = std::move(samples)](std::int64_t index, std::span<std::int32_t> out) {
            samples->read(index, out);
          }};
}

}  // namespace fbi::eval
