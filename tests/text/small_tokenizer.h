#pragma once

#include <memory>
#include <string>

#include "fbi/text/tokenizer.h"
#include "fbi/text/train_sentencepiece.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::test {

/// About 20 kB of repetitive English, enough for a vocabulary of 400.
inline std::string small_corpus() {
  const char* subjects[] = {"the fox", "a small owl", "the old gardener", "my neighbour",
                            "the child"};
  const char* verbs[] = {"sees", "follows", "remembers", "paints", "forgets"};
  const char* objects[] = {"the river", "12 stones", "a letter from 1847", "the quiet house",
                           "its shadow"};
  std::string text;
  for (int round = 0; round < 4; ++round) {
    for (const char* subject : subjects) {
      for (const char* verb : verbs) {
        for (const char* object : objects) {
          text += std::string(subject) + " " + verb + "  " + object + ".\n";
        }
      }
    }
  }
  return text;
}

/// A trained tokenizer of 400 pieces in a folder of its own.
class SmallTokenizer {
 public:
  SmallTokenizer() {
    write_text(folder_ / "corpus.txt", small_corpus());
    text::train_sentencepiece({{folder_ / "corpus.txt"}, path(), 400, 0.9995});
    tokenizer_ = text::load_tokenizer(path());
  }
  std::filesystem::path path() const { return folder_ / "tokenizer.model"; }
  const text::Tokenizer& operator*() const { return *tokenizer_; }
  const text::Tokenizer* operator->() const { return tokenizer_.get(); }

  /// Trained once per program.
  static const SmallTokenizer& instance() {
    static const SmallTokenizer tokenizer;
    return tokenizer;
  }

 private:
  TempDir folder_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
};

}  // namespace fbi::test
