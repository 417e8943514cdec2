#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// Writes into an existing folder what transformers' AutoTokenizer needs to give our ids:
/// tokenizer.model (a copy), tokenizer.json, tokenizer_config.json and special_tokens_map.json.
/// There `add_special_tokens=False` equals Tokenizer::encode and the default adds one BOS in front.
/// Only text that spells a control piece ("<s>") differs: there it becomes that piece.
///
/// The result is empty, or, where tokenizer.json can't express the model
/// (Tokenizer::why_no_tokenizer_json), that reason: then tokenizer.json is left out, and
/// transformers converts tokenizer.model by its own rules. Throws DiskError.
std::string write_hugging_face_tokenizer(const Tokenizer& tokenizer,
                                         const std::filesystem::path& directory,
                                         std::int64_t model_max_length);

}  // namespace fbi::text
