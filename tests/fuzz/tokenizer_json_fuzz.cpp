#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/text/tokenizer.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"
#include "support/temp_dir.h"

namespace {

/// A folder with the tokenizer_config.json of the corpus.
const std::filesystem::path& folder() {
  static const fbi::test::TempDir directory;
  static const std::filesystem::path path = [] {
    fbi::write_file(
        directory / "tokenizer_config.json",
        R"({"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}})");
    return directory / ".";
  }();
  return path;
}

}  // namespace

/// A tokenizer.json that is anything: it is refused, or it encodes and decodes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path file = folder() / "tokenizer.json";
  std::filesystem::remove(file);  // some file systems wait for the disk when a file is overwritten
  if (std::FILE* out = std::fopen(file.c_str(), "wb")) {
    std::fwrite(data, 1, size, out);
    std::fclose(out);
  }
  try {
    const auto tokenizer = fbi::text::load_tokenizer(file);
    const auto ids = tokenizer->encode("Once upon a time, 123 \xF0\x9F\xA6\x8A\xFF's\n\n x");
    fbi::fuzz::sink = tokenizer->decode(ids).size();
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
