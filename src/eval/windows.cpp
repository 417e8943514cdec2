#include "fbi/eval/windows.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/data/prepare.h"

namespace fbi::eval {

namespace {

/// Tokens that stand for no text, by their spelling.
std::map<std::string, std::int32_t> special_tokens(const text::Tokenizer& tokenizer) {
  std::map<std::string, std::int32_t> found;
  for (std::int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto token = static_cast<std::int32_t>(id);
    const text::PieceType type = tokenizer.type(token);
    const bool special = type == text::PieceType::kControl || type == text::PieceType::kUnknown;
    if (special && tokenizer.piece(token).starts_with('<')) found[tokenizer.piece(token)] = token;
  }
  return found;
}

/// The special token that `text` begins with.
std::pair<std::size_t, std::int32_t> special_front(
    const std::map<std::string, std::int32_t>& specials, std::string_view text) {
  std::pair<std::size_t, std::int32_t> longest = {};
  for (const auto& [spelling, id] : specials)
    if (spelling.size() > longest.first && text.starts_with(spelling))
      longest = {spelling.size(), id};
  return longest;
}

}  // namespace

std::vector<std::int32_t> text_tokens(const text::Tokenizer& tokenizer, std::string_view text) {
  if (text.size() > data::kMaxDocumentBytes) {
    throw DataError(concat("a text of ", format_bytes(text.size()),
                           " is too large to be tokenized as one document (limit ",
                           format_bytes(data::kMaxDocumentBytes), "); evaluate a part of it"));
  }
  const auto specials = special_tokens(tokenizer);
  std::vector<std::int32_t> ids = {tokenizer.bos_id()};
  const auto add = [&](std::string_view plain) {
    if (plain.empty()) return;
    const auto more = tokenizer.encode(plain);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  for (std::size_t at = text.find('<'); at != text.npos;) {
    const auto [length, id] = special_front(specials, text.substr(at));
    if (length > 0) {
      add(text.substr(0, at));
      ids.push_back(id);
      text.remove_prefix(at + length);
    }
    at = text.find('<', length > 0 ? 0 : at + 1);
  }
  add(text);
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
