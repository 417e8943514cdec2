#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fuzz/accepted.h"
#include "infer/word_tokenizer.h"
#include "serve/completion_api.h"

namespace {

constexpr std::int64_t kMaxTexts = 8;

fbi::config::ModelConfig small_model() {
  fbi::config::ModelConfig model;
  model.vocab_size = 11;
  model.hidden_size = 12;
  model.intermediate_size = 20;
  model.num_hidden_layers = 1;
  model.num_attention_heads = 2;
  model.num_key_value_heads = 1;
  model.max_position_embeddings = 32;
  model.binarize = fbi::config::Binarize::kColumn;
  return model;
}

}  // namespace

/// The body of a request that is anything: it is refused with a status of the client's fault, or
/// the engine can take what comes out.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fbi::infer::PackedModel model(small_model(), {.threads = 1});
  static const fbi::infer::WordTokenizer words({"a", "bb", " ", "day", "One"});
  static const fbi::serve::CompletionApi api(model, words, "m", kMaxTexts);
  try {
    const auto request = api.parse({reinterpret_cast<const char*>(data), size});
    if (request.texts.empty() || request.texts.size() > kMaxTexts) std::abort();
    for (const auto& text : request.texts) {
      fbi::infer::check_prompt(model, text.prompt);
      fbi::infer::validate(text.options.sampling);
      if (text.options.max_new_tokens < 0) std::abort();
    }
    ++fbi::fuzz::accepted;
  } catch (const fbi::serve::ApiError& error) {
    if (error.status != 400) std::abort();
    fbi::serve::error_json(error.status, error.what(), error.field);
  }
  return 0;
}
