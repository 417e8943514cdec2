// The input is the pickle alone; it is put into a sound archive with the storages "0" to "3".
#include "fbi/core/error.h"
#include "formats/stored_zip.h"
#include "formats/torch_file.h"
#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fbi::formats::StoredZip zip;
  zip.entries = {{"a/data.pkl", {reinterpret_cast<const char*>(data), size}}};
  for (const char* key : {"0", "1", "2", "3"}) {
    zip.entries.emplace_back(std::string("a/data/") + key, std::string(48, 'x'));
  }
  const std::string archive = zip.bytes();
  const fbi::fuzz::MemoryFile memory(archive.data(), archive.size());
  try {
    const fbi::formats::TorchFile file(memory.path());
    fbi::fuzz::sink = fbi::fuzz::touch(file.tensors());
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
