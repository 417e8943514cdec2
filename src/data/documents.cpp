#include "data/documents.h"

#include <algorithm>

#include "data/token_line.h"
#include "fbi/core/error.h"
#include "fbi/text/plain_text.h"
#include "fbi/text/text_file.h"

namespace fbi::data {

namespace {

constexpr std::size_t kNone = std::string_view::npos;

constexpr std::string_view kBlanks = " \t\r\n";

struct Cut {
  std::size_t begin, end;  // of what stands between two documents
  bool whole = true;       // not if more text may change it
};

/// The first line that holds nothing but spaces, with the line break before it.
Cut find_blank_line(std::string_view text) {
  for (std::size_t line = 0;;) {
    const std::size_t begin = line > 0 ? line - 1 : 0;
    const std::size_t next = text.find_first_not_of(" \t\r", line);
    if (next == kNone) return {begin, text.size(), false};
    if (text[next] == '\n') return {begin, next + 1};
    const std::size_t end = text.find('\n', next);
    if (end == kNone) return {text.size(), text.size(), false};
    line = end + 1;
  }
}

Cut find_separator(std::string_view text, const std::string& separator) {
  if (separator == kBlankLine) return find_blank_line(text);
  const std::size_t at = text.find(separator);
  if (at == kNone) return {text.size(), text.size(), false};
  return {at, at + separator.size()};
}

std::string_view trim_line_breaks(std::string_view text) {
  const std::size_t first = text.find_first_not_of("\r\n");
  if (first == kNone) return {};
  return text.substr(first, text.find_last_not_of("\r\n") - first + 1);
}

std::vector<std::int32_t> encode(std::string_view text, const text::Tokenizer& tokenizer) {
  auto ids = tokenizer.encode(text);
  ids.insert(ids.begin(), tokenizer.bos_id());
  ids.push_back(tokenizer.eos_id());
  return ids;
}

}  // namespace

DocumentCutter::DocumentCutter(bool json_lines, std::string separator)
    : json_lines_(json_lines), separator_(std::move(separator)) {}

void DocumentCutter::feed(std::string_view content, bool last) {
  rest_ = first_ ? text::without_byte_order_mark(content) : content;
  first_ = false;
  last_ = last;
  if (!json_lines_) return;
  const std::size_t solid = rest_.find_last_not_of(kBlanks) + 1;
  blank_end_ = rest_.data() + solid;
  if (last_) rest_ = rest_.substr(0, solid);
}

bool DocumentCutter::next(RawDocument& document) {
  return json_lines_ ? next_line(document) : next_text(document);
}

bool DocumentCutter::next_line(RawDocument& document) {
  if (rest_.empty()) return false;
  const std::size_t end = rest_.find('\n');
  if (!last_ && (end == kNone || rest_.data() >= blank_end_)) return false;
  document = {rest_.substr(0, end), number_++};
  rest_.remove_prefix(end == kNone ? rest_.size() : end + 1);
  return true;
}

bool DocumentCutter::next_text(RawDocument& document) {
  while (!rest_.empty()) {
    const Cut cut = find_separator(rest_, separator_);
    if (!last_ && !cut.whole) return false;
    document = {trim_line_breaks(rest_.substr(0, cut.begin)), number_};
    rest_.remove_prefix(cut.end);
    if (document.bytes.empty()) continue;
    ++number_;
    return true;
  }
  return false;
}

bool is_json_lines(const PrepareOptions& options, const std::filesystem::path& input) {
  if (options.format != InputFormat::kByName) return options.format == InputFormat::kJsonLines;
  const auto extension = text::unpacked_name(input).extension();
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
}

bool any_text(const PrepareOptions& options) {
  return !std::ranges::all_of(options.inputs,
                              [&](const auto& input) { return is_json_lines(options, input); });
}

DataError too_large(const std::filesystem::path& input, const PrepareOptions& options,
                    std::int64_t number) {
  const bool lines = is_json_lines(options, input);
  return DataError(concat(input.string(), lines ? ", line " : ", document ", number + 1,
                          ": expected at most ", kMaxDocumentBytes, " bytes, found more; ",
                          lines ? "is this a file of JSON lines?"
                                : "choose the separator that stands between documents"));
}

std::vector<std::int32_t> document_ids(const RawDocument& document,
                                       const std::filesystem::path& input,
                                       const PrepareOptions& options,
                                       const text::Tokenizer* tokenizer, std::int64_t vocab_size) {
  if (!is_json_lines(options, input)) {
    return encode(document.bytes, *tokenizer);
  }
  const LinePlace place{input, document.number};
  if (!options.field.empty()) {
    const std::string text = parse_text_field(document.bytes, place, options.field);
    return text.empty() ? std::vector<std::int32_t>() : encode(text, *tokenizer);
  }
  std::vector<std::int32_t> ids;
  parse_token_ids(document.bytes, place, vocab_size, false, ids);
  return ids;
}

}  // namespace fbi::data
