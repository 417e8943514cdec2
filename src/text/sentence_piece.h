#pragma once

#include <filesystem>
#include <memory>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// DataError as load_tokenizer says.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file);

}  // namespace fbi::text
