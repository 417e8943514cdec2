#!/usr/bin/env python3
"""Writes src/text/unicode_classes.cpp: letters and numbers as the regular expressions of Hugging Face's `tokenizers` see them.

The library's Unicode version counts, not Python's, so it is asked about every character. Needs the interpreter that
scripts/deps.sh --python-tests makes: .deps/python-tests/bin/python scripts/make_unicode_classes.py
"""
import pathlib

import tokenizers
from tokenizers import Regex, pre_tokenizers

TARGET = pathlib.Path(__file__).resolve().parents[1] / "src/text/unicode_classes.cpp"


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    every = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    found = set()
    for begin in range(0, len(every), 4096):
        chunk = every[begin:begin + 4096]
        rest = {ord(c) for text, _ in split.pre_tokenize_str("".join(map(chr, chunk))) for c in text}
        found.update(set(chunk) - rest)
    return found


def ranges(codes):
    result = []
    for code in sorted(codes):
        if result and result[-1][1] == code - 1:
            result[-1][1] = code
        else:
            result.append([code, code])
    return result


def table(name, codes):
    items = [f"{{0x{first:x}, 0x{last:x}}}" for first, last in ranges(codes)]
    lines = [", ".join(items[i:i + 5]) + "," for i in range(0, len(items), 5)]
    return f"constexpr Range {name}[] = {{\n    " + "\n    ".join(lines) + "\n};\n"


def main():
    letters, numbers = table("kLetters", members(r"\p{L}")), table("kNumbers", members(r"\p{N}"))
    spaces = table("kSpaces", members(r"\s"))
    TARGET.write_text(f"""// Written by scripts/make_unicode_classes.py with tokenizers {tokenizers.__version__}; not to be edited.
#include "text/unicode_classes.h"

#include <algorithm>
#include <iterator>

namespace fbi::text {{
namespace {{

struct Range {{
  char32_t first, last;
}};

// clang-format off
{letters}
{numbers}
{spaces}
// clang-format on

template <std::size_t count>
bool contains(const Range (&ranges)[count], char32_t code) {{
  const auto after =
      std::upper_bound(std::begin(ranges), std::end(ranges), code,
                       [](char32_t value, const Range& range) {{ return value < range.first; }});
  return after != std::begin(ranges) && code <= std::prev(after)->last;
}}

}}  // namespace

CharacterClass class_of(char32_t code) {{
  if (contains(kLetters, code)) return CharacterClass::kLetter;
  if (contains(kNumbers, code)) return CharacterClass::kNumber;
  return contains(kSpaces, code) ? CharacterClass::kSpace : CharacterClass::kOther;
}}

}}  // namespace fbi::text
""")


if __name__ == "__main__":
    main()
