// make_packed_model FOLDER TEXT-FILE: a small packed model with random weights and a tokenizer
// trained on the text, or, with TOKENIZER.JSON in its place, with that one. For tests of programs
// that run models, without training one.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>

#include "config/small_model.h"
#include "fbi/exporter/packed.h"
#include "fbi/text/tokenizer.h"
#include "fbi/text/train_sentencepiece.h"
#include "formats/memory_source.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: make_packed_model FOLDER TEXT-FILE|TOKENIZER.JSON\n", stderr);
    return 2;
  }
  try {
    const std::filesystem::path folder = argv[1], from = argv[2];
    std::unique_ptr<fbi::text::Tokenizer> given;
    if (from.extension() == ".json") given = fbi::text::load_tokenizer(from);
    fbi::config::ModelConfig model = fbi::config::small_model();
    model.vocab_size = given ? given->vocab_size() : 320;
    model.hidden_size = 48;
    model.intermediate_size = 80;
    model.num_attention_heads = 6;
    model.num_key_value_heads = 2;
    model.head_dim = 8;
    model.max_position_embeddings = 60000;  // to write a text of this length takes a minute
    fbi::formats::MemorySource source(model);
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      for (float& value : source.values(name)) value *= 20;  // logits that prefer some tokens
    }
    float* const end_of_text = &source.values("lm_head.weight")[2 * model.hidden_size];
    std::fill_n(end_of_text, model.hidden_size, 0.0f);  // never the most likely token
    fbi::exporter::export_packed(source, model, folder, fbi::formats::DType::kF32,
                                 {.tokenizer = given.get()})
        .commit();
    if (given) return 0;
    fbi::text::train_sentencepiece(
        {.inputs = {from}, .output = folder / "tokenizer.model", .vocab_size = model.vocab_size});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
