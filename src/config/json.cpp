#include "config/json.h"

#include <algorithm>
#include <memory>

#include "fbi/core/error.h"

namespace fbi::config {
namespace {

constexpr std::size_t kMaxDepth = 64;     // values are walked and printed recursively
constexpr std::size_t kMaxShown = 100;    // characters of a value in a message
constexpr std::size_t kMaxMessage = 240;  // characters of a parser message

// Cuts between characters of UTF-8.
std::string shortened(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  return text.substr(0, limit) + "...";
}

/// Builds the document and notes what nlohmann's own builder lets pass: keys given twice, deep
/// nesting.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    keys_.back() = key;
    if (open_.back()->contains(key)) duplicates_.push_back(path());
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(position, readable(error.what()));
    return false;
  }

  ParsedJson take() { return {std::move(root_), std::move(duplicates_)}; }
  SyntaxError error() const { return error_; }

 private:
  bool put(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (open_.size() == kMaxDepth) {
      error_.message = concat("nested deeper than ", kMaxDepth, " levels");
      return false;
    }
    open_.push_back(place(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    auto [slot, inserted] = parent.emplace(keys_.back(), value);
    if (inserted) return &*slot;
    ignored_.push_back(std::make_unique<Json>(std::move(value)));
    return ignored_.back().get();
  }

  std::string path() const {
    std::string path;
    for (const std::string& key : keys_) {
      if (key.empty()) continue;
      if (!path.empty()) path += '.';
      path += key;
    }
    return path;
  }

  void fail(std::size_t position, std::string message) {
    const std::size_t end = std::min(position > 0 ? position - 1 : 0, text_.size());
    const std::string_view before = text_.substr(0, end);
    error_.line = 1 + static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n'));
    const std::size_t newline = before.rfind('\n');
    error_.column = newline == std::string_view::npos ? end + 1 : end - newline;
    error_.message = std::move(message);
  }

  // "[json.exception.parse_error.101] parse error at line 1, column 2: text" -> "text"
  static std::string readable(std::string message) {
    if (const auto bracket = message.find("] "); bracket != std::string::npos) {
      message.erase(0, bracket + 2);
    }
    if (message.rfind("parse error", 0) == 0) {
      if (const auto colon = message.find(": "); colon != std::string::npos) {
        message.erase(0, colon + 2);
      }
    }
    return shortened(std::move(message), kMaxMessage);
  }

  std::string_view text_;
  Json root_;
  std::vector<Json*> open_;        // chain of containers that are not closed yet
  std::vector<std::string> keys_;  // the key being filled in each of them; empty in a list
  std::vector<std::unique_ptr<Json>> ignored_;  // values of repeated keys
  std::vector<std::string> duplicates_;
  SyntaxError error_;
};

}  // namespace

std::variant<ParsedJson, SyntaxError> parse_json(std::string_view text, Comments comments) {
  Builder builder(text);
  if (!Json::sax_parse(text, &builder, Json::input_format_t::json, true,
                       comments == Comments::kAllowed)) {
    return builder.error();
  }
  return builder.take();
}

std::string show(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return shortened(std::move(text), kMaxShown);
}

void merge_into(Json& target, const Json& source) {
  if (!target.is_object() || !source.is_object()) {
    target = source;
    return;
  }
  for (const auto& [key, value] : source.items()) merge_into(target[key], value);
}

}  // namespace fbi::config
