#pragma once

#include <filesystem>
#include <memory>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// A tokenizer.json of byte-level BPE. DataError as load_tokenizer says.
std::unique_ptr<Tokenizer> load_byte_bpe(const std::filesystem::path& file);

}  // namespace fbi::text
