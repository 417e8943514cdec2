// The input is a text, as it stands or packed by gzip or zstd.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "fbi/core/error.h"
#include "fbi/text/text_file.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"

namespace {

constexpr std::size_t kMost = 1 << 20;  // of what is unpacked: few bytes can hold gigabytes

/// All of it, `piece` bytes at a time.
std::string in_pieces(const std::filesystem::path& path, std::size_t piece) {
  fbi::text::TextFile file(path);
  std::string text;
  for (bool more = true; more && text.size() <= kMost;) {
    const std::size_t before = text.size();
    more = file.append(text, piece);
    if (text.size() > before + piece || (more && text.size() < before + piece)) std::abort();
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fbi::fuzz::MemoryFile memory(data, size);
  try {
    const std::string whole = fbi::text::read_text_file(memory.path(), kMost);
    const std::size_t piece = std::max<std::size_t>(1, whole.size() / 3);
    if (in_pieces(memory.path(), piece) != whole) std::abort();
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
