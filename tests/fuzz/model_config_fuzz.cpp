#include <string_view>

#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fuzz/accepted.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    fbi::config::model_config_from_hf_json({reinterpret_cast<const char*>(data), size},
                                           "config.json");
    ++fbi::fuzz::accepted;
  } catch (const fbi::DataError&) {  // the only error that a file may cause
  }
  return 0;
}
