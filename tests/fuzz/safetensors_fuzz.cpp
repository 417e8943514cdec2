#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fbi::fuzz::MemoryFile memory(data, size);
  try {
    const fbi::formats::SafetensorsFile file(memory.path());
    fbi::fuzz::sink = fbi::fuzz::touch(file.tensors());
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
