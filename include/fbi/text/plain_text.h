#pragma once

#include <filesystem>
#include <string_view>

namespace fbi::text {

/// Refuses what is plainly another kind of file than text: packed ones and Parquet by their first
/// bytes, UTF-16 and binary ones by many NUL bytes, other encodings than UTF-8 by broken characters
/// in its `beginning`. DataError naming `path`, which that comes from, and what makes text of it.
void check_plain_text(std::string_view beginning, const std::filesystem::path& path);
/// Whether its first line is a JSON object, as of JSON lines that are taken for text.
bool begins_with_json_object(std::string_view content);

/// UTF-8 text may begin with a byte order mark, which is no part of it.
std::string_view without_byte_order_mark(std::string_view text);

}  // namespace fbi::text
