#pragma once

#include <filesystem>
#include <string_view>

#include "fbi/core/file.h"

namespace fbi::text {

std::string_view text_of(const MappedFile& file);

/// Refuses content that is plainly another kind of file than text: packed ones and Parquet by their
/// first bytes, UTF-16 and binary ones by many NUL bytes at the beginning, other encodings than
/// UTF-8 by broken characters there. DataError naming `path`, which the content comes from, and
/// what makes text of it.
void check_plain_text(std::string_view content, const std::filesystem::path& path);
/// Refuses content whose first line is a JSON object: DataError, which `remedy` ends.
void check_no_json_lines(std::string_view content, const std::filesystem::path& path,
                         std::string_view remedy);

/// UTF-8 text may begin with a byte order mark, which is no part of it.
std::string_view without_byte_order_mark(std::string_view text);

}  // namespace fbi::text
