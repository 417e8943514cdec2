#include <filesystem>
#include <iostream>

#include "cli/output_check.h"
#include "cli/verbs.h"
#include "fbi/text/tokenizer.h"
#include "fbi/text/train_sentencepiece.h"

namespace fbi::cli {
namespace {

int run_tokenizer(const Arguments& arguments) {
  text::SentencePieceTraining options;
  for (const auto& input : arguments.list("input")) options.inputs.emplace_back(input);
  options.output = arguments.text("out");
  check_output_file("out", options.output, options.inputs);
  options.vocab_size = arguments.integer("vocab-size");
  options.character_coverage = arguments.number("character-coverage");
  text::train_sentencepiece(options);
  const auto tokenizer = text::load_tokenizer(options.output);
  std::cout << options.output.string() << ": " << tokenizer->vocab_size() << " pieces, bos "
            << tokenizer->bos_id() << ", eos " << tokenizer->eos_id() << ", unk "
            << *tokenizer->unk_id() << "\n";
  return 0;
}

}  // namespace

Verb tokenizer_train_verb() {
  return {
      "tokenizer train",
      "train a SentencePiece tokenizer of the LLaMA kind",
      "Only for models without a teacher of someone else: a student needs its teacher's tokenizer. "
      "Byte-pair encoding with byte fallback (no text is unknown), digits one by one, unk 0, bos "
      "1, eos 2. The same input gives "
      "the same file.",
      "input",
      {{"input", "FILE", "text file, also .gz or .zst", "", true, true},
       {"vocab-size", "N", "pieces, 259 special and byte pieces included", "32000"},
       {"character-coverage", "X", "share of characters that get a piece of their own", "0.9995"},
       {"out", "FILE", "the .model file to write", "", true}},
      {"fbi-llm tokenizer train --input stories.txt --vocab-size 2048 --out tokenizer.model"},
      run_tokenizer};
}

}  // namespace fbi::cli
