#include "fbi/text/train_sentencepiece.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/text/plain_text.h"
#include "fbi/text/text_file.h"

namespace fbi::text {

namespace {

constexpr std::int64_t kFixedPieces = 3 + 256;  // <unk> <s> </s> and the bytes
constexpr std::int64_t kMaxVocabSize = 1 << 24;
// The trainer silently leaves out sentences above its own limit, so longer lines are cut here.
constexpr std::size_t kMaxSentenceBytes = 4000;

/// The lines of several files, long ones in parts that end at a space where there is one, else
/// between characters.
class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::filesystem::path>& inputs) : inputs_(inputs) {
    for (const auto& input : inputs) {
      const std::string beginning = beginning_of_text_file(input);
      check_plain_text(beginning, input);
      if (begins_with_json_object(beginning))
        log::warn(input.string(),
                  " holds JSON, of which braces, quotes and escapes are learned, too; "
                  "its texts alone: jq -r '.KEY // empty' ",
                  input.string(), " > text.txt");
    }
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    for (;;) {
      if (!look_ahead()) {
        done_ = true;
        return;
      }
      const std::size_t end = rest_.substr(0, kWindow).find('\n');
      const bool ends = end != std::string_view::npos || rest_.size() < kWindow;
      std::string_view line = rest_.substr(0, std::min(end, kWindow));
      if (ends && line.ends_with('\r')) line.remove_suffix(1);
      if (line.size() > kMaxSentenceBytes) return take_part(line);
      sentence_ = line;
      rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
      if (!sentence_.empty()) return;
    }
  }

 private:
  /// Tells whether a line of so many bytes is too long for a sentence, line break included.
  static constexpr std::size_t kWindow = kMaxSentenceBytes + 2;

  /// False when all is read; else rest_ holds kWindow bytes, or the end of a file.
  bool look_ahead() {
    constexpr std::size_t kStep = 1 << 20;
    while (more_ ? rest_.size() < kWindow : rest_.empty()) {
      const bool first = !more_;
      if (first && next_input_ == inputs_.size()) return false;
      if (first) file_.emplace(inputs_[next_input_++]);
      content_.erase(0, content_.size() - rest_.size());
      more_ = file_->append(content_, kStep);
      rest_ = first ? without_byte_order_mark(content_) : content_;
    }
    return true;
  }

  void take_part(std::string_view line) {
    const std::size_t length = part_length(line);
    sentence_ = line.substr(0, length);
    rest_.remove_prefix(length);
    // The trainer puts one before each sentence.
    if (rest_.starts_with(' ')) rest_.remove_prefix(1);
  }

  /// Of a line that is too long.
  static std::size_t part_length(std::string_view line) {
    const std::size_t space = line.rfind(' ', kMaxSentenceBytes - 1);
    if (space != std::string_view::npos && space > 0) return space;
    std::size_t length = kMaxSentenceBytes;
    while (length > 1 && (static_cast<unsigned char>(line[length]) & 0xC0) == 0x80) --length;
    return length;
  }

  std::vector<std::filesystem::path> inputs_;
  std::size_t next_input_ = 0;
  std::optional<TextFile> file_;
  bool more_ = false;  // of file_
  std::string content_;
  std::string_view rest_;  // of content_
  std::string sentence_;
  bool done_ = false;
};

void check(const SentencePieceTraining& options) {
  if (options.inputs.empty()) throw UsageError("training a tokenizer needs at least one text file");
  if (options.vocab_size <= kFixedPieces || options.vocab_size > kMaxVocabSize) {
    throw UsageError(concat("vocab_size ", options.vocab_size, ": expected more than ",
                            kFixedPieces, " (special pieces and bytes) and at most ",
                            kMaxVocabSize));
  }
  if (!(options.character_coverage >= 0.98 && options.character_coverage <= 1.0)) {
    throw UsageError(concat("character_coverage ", options.character_coverage,
                            ": expected a number from 0.98 to 1"));
  }
}

std::unordered_map<std::string, std::string> trainer_arguments(
    const SentencePieceTraining& options) {
  std::string coverage = std::to_string(options.character_coverage);
  // The decimal point of the locale of the program that uses this library may be a comma.
  std::replace(coverage.begin(), coverage.end(), ',', '.');
  return {{"model_type", "bpe"},
          {"vocab_size", std::to_string(options.vocab_size)},
          {"character_coverage", coverage},
          {"byte_fallback", "true"},
          {"split_digits", "true"},
          {"allow_whitespace_only_pieces", "true"},
          {"normalization_rule_name", "identity"},
          {"remove_extra_whitespaces", "false"},
          {"add_dummy_prefix", "true"},
          {"max_sentence_length", std::to_string(kMaxSentenceBytes + 1)},
          {"unk_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"pad_id", "-1"},
          {"num_threads", "1"},
          {"minloglevel", "4"}};
}

/// What to do about what the trainer says.
const char* remedy(const std::string& message) {
  return message.find("required_chars") != std::string::npos
             ? "each different character needs a piece of its own: choose a larger vocab_size or a "
               "smaller character_coverage"
             : "give more text or choose a smaller vocab_size";
}

}  // namespace

void train_sentencepiece(const SentencePieceTraining& options) {
  check(options);
  LineIterator lines(options.inputs);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_arguments(options), &lines, &model);
  if (!status.ok()) {
    std::string files;
    for (const auto& input : options.inputs) files += (files.empty() ? "" : ", ") + input.string();
    throw DataError(concat("cannot train a tokenizer with vocab_size ", options.vocab_size, " on ",
                           files, ": ", status.ToString(), " (", remedy(status.ToString()), ")"));
  }
  write_file(options.output, model);
}

}  // namespace fbi::text
