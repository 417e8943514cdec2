#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/infer/packed_model.h"
#include "support/temp_dir.h"

namespace {

/// The architecture of corpus/packed_model.
constexpr std::string_view kConfig = R"({
  "model_type": "llama", "vocab_size": 11, "hidden_size": 12, "intermediate_size": 20,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6,
  "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu", "binarize": "column",
  "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2})";

const std::filesystem::path& folder() {
  static const fbi::test::TempDir directory;
  static const std::filesystem::path path = [] {
    fbi::write_file(directory / "config.json", kConfig);
    return directory / ".";
  }();
  return path;
}

}  // namespace

/// A packed model's tensors that are anything: it is refused, or it runs.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path file = folder() / "model.safetensors";
  std::filesystem::remove(file);
  if (std::FILE* out = std::fopen(file.c_str(), "wb")) {
    std::fwrite(data, 1, size, out);
    std::fclose(out);
  }
  try {
    fbi::infer::PackedModel model(folder(), {.threads = 1});
    const std::vector<std::int32_t> ids = {1, 10, 0};
    std::vector<float> logits(11);
    model.start_decoding()->feed(ids, logits);
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
