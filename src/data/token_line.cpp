#include "data/token_line.h"

#include <simdjson.h>

#include "fbi/core/error.h"
#include "fbi/text/plain_text.h"

namespace fbi::data {

namespace {

namespace dom = simdjson::dom;

template <class... Args>
[[noreturn]] void fail(const LinePlace& place, const Args&... args) {
  throw DataError(concat(place.file.string(), ", line ", place.line + 1, ": ", args...));
}

/// The result is valid until the next call of this thread.
dom::element parse(std::string_view line, const LinePlace& place, const std::string& expected) {
  if (line.size() > kMaxLineBytes) {
    fail(place, "expected at most ", kMaxLineBytes, " bytes, found ", line.size(),
         "; is this a file of JSON lines?");
  }
  if (line.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    fail(place, "expected ", expected, ", found an empty line");
  }
  thread_local dom::parser parser;
  dom::element document;
  const auto error = parser.parse(line.data(), line.size()).get(document);
  if (error) fail(place, "broken JSON (", simdjson::error_message(error), "); expected ", expected);
  return document;
}

dom::element member(const dom::element& document, const std::string& key, const LinePlace& place,
                    const std::string& expected) {
  dom::object object;
  if (document.get(object)) fail(place, "expected ", expected, ", found JSON of another kind");
  dom::element value;
  if (object.at_key(key).get(value)) {
    std::vector<std::string_view> keys;
    for (const auto& field : object) keys.push_back(field.key);
    fail(place, "expected ", expected, ", found the keys ", keys.empty() ? "(none)" : join(keys));
  }
  return value;
}

}  // namespace

void parse_token_ids(std::string_view line, const LinePlace& place, std::int64_t vocab_size,
                     bool bare_arrays, std::vector<std::int32_t>& ids) {
  const std::string expected =
      bare_arrays ? "[ids] or {\"token_ids\": [ids]}" : "{\"token_ids\": [ids]}";
  const dom::element document =
      parse(place.line == 0 ? text::without_byte_order_mark(line) : line, place, expected);
  const bool bare = bare_arrays && document.is_array();
  dom::array array;
  if ((bare ? document : member(document, "token_ids", place, expected)).get(array)) {
    fail(place, "expected ", expected, ", found token_ids that are no array");
  }
  ids.clear();
  for (const dom::element& element : array) {
    std::int64_t id = 0;
    if (element.get(id)) {
      fail(place, "id ", ids.size() + 1, ": expected an integer, found ",
           simdjson::minify(element));
    }
    if (id < 0 || id >= vocab_size) {
      fail(place, "id ", ids.size() + 1, ": expected 0 to ", vocab_size - 1,
           " (the vocabulary), found ", id);
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
}

std::string parse_text_field(std::string_view line, const LinePlace& place,
                             const std::string& field) {
  const std::string expected = "{\"" + field + "\": \"text\"}";
  std::string_view text;
  if (member(parse(line, place, expected), field, place, expected).get(text)) {
    fail(place, "expected ", expected, ", found a value that is no string");
  }
  return std::string(text);
}

}  // namespace fbi::data
