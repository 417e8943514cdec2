// The input is model.safetensors.index.json of a folder in which 1.safetensors holds "a"
// and 2.safetensors "b".
#include <cstdlib>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"
#include "support/temp_dir.h"
#include "support/write_safetensors.h"
#include "support/write_text.h"

namespace {

/// A folder whose index is a link into memory, which is faster than files.
const std::filesystem::path& model_folder() {
  static const fbi::test::TempDir folder;
  static const bool once = [] {
    const float value = 1;
    for (const char* name : {"a", "b"}) {
      const fbi::formats::TensorView view{
          name, fbi::formats::DType::kF32, {1}, std::as_bytes(std::span(&value, 1))};
      fbi::test::write_safetensors(folder / (name[0] == 'a' ? "1.safetensors" : "2.safetensors"),
                                   {&view, 1});
    }
    return true;
  }();
  static_cast<void>(once);
  return folder.path();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fbi::fuzz::MemoryFile memory(data, size);
  const std::filesystem::path index = model_folder() / "model.safetensors.index.json";
  std::filesystem::remove(index);
  std::filesystem::create_symlink(memory.path(), index);
  try {
    const fbi::formats::TensorFolder folder(model_folder());
    for (const auto& name : folder.names()) {
      if (name != "a" && name != "b") std::abort();
    }
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
