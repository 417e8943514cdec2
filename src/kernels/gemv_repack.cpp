#include <algorithm>
#include <cstring>

#include "kernels/gemv_kernels.h"

namespace fbi::kernels {
namespace {

/// Bits [first, first + count) of a packed row, count <= 32; reads no byte beyond the last bit's.
std::uint32_t bit_field(const std::uint8_t* row, std::int64_t first, std::int64_t count) {
  const std::int64_t begin = first / 8, bytes = (first + count + 7) / 8 - begin;
  std::uint64_t field = 0;
  for (std::int64_t k = 0; k < bytes; ++k) field |= std::uint64_t{row[begin + k]} << (8 * k);
  return static_cast<std::uint32_t>(field >> (first % 8) & ((std::uint64_t{1} << count) - 1));
}

/// [block rows / rows_together][words][rows_together] words of `inputs` inputs each.
template <class Word, std::int64_t rows_together>
void repack_fields(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                   std::int64_t first, std::int64_t count, std::int64_t inputs, std::byte* words) {
  const std::int64_t row_words = (count + inputs - 1) / inputs;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* row = bits + r * row_stride;
    const std::int64_t place = r / rows_together * row_words * rows_together + r % rows_together;
    for (std::int64_t i = 0; i < count; i += inputs) {
      const auto word = static_cast<Word>(bit_field(row, first + i, std::min(inputs, count - i)));
      std::memcpy(words + (place + i / inputs * rows_together) * sizeof word, &word, sizeof word);
    }
  }
}

}  // namespace

void repack_words32(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                    std::int64_t first, std::int64_t count, std::byte* words) {
  repack_fields<std::uint32_t, kBlockRows>(bits, row_stride, rows, first, count, kExactUnit, words);
}

void repack_words16(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                    std::int64_t first, std::int64_t count, std::byte* words) {
  repack_fields<std::uint16_t, kInt8BlockRows>(bits, row_stride, rows, first, count, 15, words);
}

template <std::int64_t rows_together>
void repack_pairs(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                  std::int64_t first, std::int64_t count, std::byte* words) {
  repack_fields<std::uint16_t, rows_together>(bits, row_stride, rows, first, count, 16, words);
}
template void repack_pairs<32>(const std::uint8_t*, std::int64_t, std::int64_t, std::int64_t,
                               std::int64_t, std::byte*);

template <std::int64_t rows_together, std::int64_t steps>
void repack_steps(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                  std::int64_t first, std::int64_t count, std::byte* words) {
  const std::int64_t row_words = (count + 8 * steps - 1) / (8 * steps);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* row = bits + r * row_stride;
    std::byte* out =
        words + r / rows_together * row_words * steps * rows_together + r % rows_together;
    std::int64_t i = 0;
    for (; first % 8 == 0 && i + 8 <= count; i += 8) {
      out[i / 8 * rows_together] = std::byte{row[(first + i) / 8]};
    }
    for (; i < count; i += 8) {
      out[i / 8 * rows_together] =
          static_cast<std::byte>(bit_field(row, first + i, std::min<std::int64_t>(8, count - i)));
    }
  }
}
template void repack_steps<32, 2>(const std::uint8_t*, std::int64_t, std::int64_t, std::int64_t,
                                  std::int64_t, std::byte*);
template void repack_steps<64, 4>(const std::uint8_t*, std::int64_t, std::int64_t, std::int64_t,
                                  std::int64_t, std::byte*);

}  // namespace fbi::kernels
