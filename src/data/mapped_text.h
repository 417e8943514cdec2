#pragma once

#include <string_view>

#include "fbi/core/file.h"

namespace fbi::data {

std::string_view text_of(const MappedFile& file);

/// Takes the pages of `part` of text_of(file) out of this process's memory, with those that its
/// faults brought along; the next access maps them again. Without it a file larger than memory
/// would count as this process's as far as it was read.
void release_pages(const MappedFile& file, std::string_view part);

}  // namespace fbi::data
