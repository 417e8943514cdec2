#include <vector>

#include "fbi/core/error.h"
#include "fbi/formats/gguf.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fbi::fuzz::MemoryFile memory(data, size);
  try {
    const fbi::formats::GgufFile file(memory.path());
    fbi::fuzz::sink = fbi::fuzz::touch(file.tensors());
    for (const auto& tensor : file.tensors()) {
      std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
      to_float(tensor, values);
    }
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
