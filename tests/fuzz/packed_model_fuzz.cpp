#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/infer/packed_model.h"
#include "fuzz/accepted.h"
#include "support/temp_dir.h"

namespace {

using fbi::infer::PackedModel;
using fbi::infer::PackedOptions;

const std::filesystem::path& folder() {
  static const fbi::test::TempDir directory;
  static const std::filesystem::path path = directory / ".";
  return path;
}

void write(const char* name, std::string_view content) {
  const std::filesystem::path file = folder() / name;
  std::filesystem::remove(file);
  if (std::FILE* out = std::fopen(file.c_str(), "wb")) {
    std::fwrite(content.data(), 1, content.size(), out);
    std::fclose(out);
  }
}

/// Up to three tokens, the first and the last of the vocabulary among them.
void run(const PackedOptions& options) {
  PackedModel model(folder(), options);
  const auto last = static_cast<std::int32_t>(model.vocab_size() - 1);
  const std::vector<std::int32_t> ids = {last, 0, std::min(1, last)};
  const auto count = std::min<std::int64_t>(std::ssize(ids), model.max_position());
  std::vector<float> logits(static_cast<std::size_t>(model.vocab_size()));
  model.start_decoding()->feed(std::span(ids).first(static_cast<std::size_t>(count)), logits);
}

}  // namespace

/// A line of config.json and a file of tensors that are anything: refused, or it runs, with every
/// kernel.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t line = std::min(input.find('\n'), size);
  write("config.json", input.substr(0, line));
  write("model.safetensors", input.substr(std::min(line + 1, size)));
  try {
    run({.threads = 1});
    run({.activations = fbi::kernels::Activations::kInt8,
         .head = fbi::kernels::Storage::kInt8,
         .cache = fbi::kernels::CacheType::kFp16,
         .threads = 1});
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
