#pragma once

#include "kernels/cpu/vec16_gemv.h"

/// Products with signs by sums of whole numbers, looked up as bytes. Per 4 inputs a table holds the
/// 16 sums of ±q plus an offset that makes them positive, cut into planes of some bits, one byte
/// each: an instruction looks several rows up in a plane. Inputs are rounded once per unit; whole
/// sums are exact however a level cuts and adds them, so all levels give the same bits. The file
/// that includes this one has kVectorRows, the rows of a look-up; store_whole, which rounds sixteen
/// values to the nearest; and sums_of_four, of the magnitudes of sixteen times four inputs.
namespace fbi::kernels {
namespace {

constexpr int kStep = 8;                    // inputs of a byte of signs
constexpr std::int64_t kUnitGroups = 64;    // of four inputs
constexpr std::int64_t kUnitHeader = 64;    // the scale
constexpr std::int64_t kPlane = 16;         // bytes
constexpr std::int64_t kWholeInputs = 256;  // of a unit

/// What a table's sums are cut into, and how they are added up, as a template argument.
struct Planes {
  int count, bits;
  int steps;    ///< bytes of signs in a word
  int vectors;  ///< that share the loads of a table; more sums would leave the registers
  constexpr std::int64_t rows() const { return vectors * kVectorRows; }
  constexpr std::int64_t word_inputs() const { return steps * kStep; }
  constexpr std::int64_t word_bytes() const { return steps * kInt8BlockRows; }  // of a block
  constexpr std::int64_t table_bytes() const { return kUnitHeader + kUnitGroups * count * kPlane; }
};

/// The largest sum of the magnitudes of four inputs of a unit.
inline float largest_group(const float* inputs) {
  Floats largest = splat(0);
  for (std::int64_t i = 0; i < kWholeInputs; i += 64) {
    largest = max(largest, sums_of_four(inputs + i));
  }
  return max_lane(largest);
}

/// How inputs become whole numbers. limit() becomes kLargest; where it is below kSmallest, all are
/// 0: what one of them is worth has no fp32 value, or no inverse.
struct Int8Numbers {
  using Whole = std::int16_t;
  static constexpr std::int64_t kInputs = kInt8Unit;
  static constexpr float kLargest = 127, kSmallest = __FLT_DENORM_MIN__;
  static constexpr std::int32_t kOffset = 1 << 9;  // sums of four are below 512
  static float limit(float largest, const float*) { return largest; }
};
/// Sums of four are at most as large as the offset: kLargest is less by what rounding may add.
struct ExactNumbers {
  using Whole = std::int32_t;
  static constexpr std::int64_t kInputs = kWholeInputs;
  static constexpr float kLargest = 8388600, kSmallest = 0x1p-100f;
  static constexpr std::int32_t kOffset = 1 << 23;
  static float limit(float, const float* inputs) { return largest_group(inputs); }
};

/// x·scale of one unit, 0 beyond count; returns the largest magnitude.
inline float scaled(const float* x, const float* scale, bool per_column, std::int64_t count,
                    float (&out)[kWholeInputs]) {
  Floats largest = splat(0);
  for (std::int64_t i = 0; i < kWholeInputs; i += kLanes) {
    Floats part = splat(0);
    if (i + kLanes <= count) {
      part = mul(load(x + i), per_column ? load(scale + i) : splat(*scale));
    } else if (i < count) {
      float rest[kLanes] = {};
      for (std::int64_t k = 0; i + k < count; ++k)
        rest[k] = x[i + k] * scale[per_column ? i + k : 0];
      part = load(rest);
    }
    store(out + i, part);
    largest = max(largest, abs(part));
  }
  return max_lane(largest);
}

/// What a level's Products have in common: one of the Numbers, how their sums are cut, and
/// store_group, which writes the planes of a group's sums. A Product adds group_place, where in a
/// unit it does so, and add_unit, of planes.rows() rows.
template <class Numbers, Planes cut, auto store>
struct WholeProduct : Numbers {
  static constexpr Planes planes = cut;
  static void store_group(const typename Numbers::Whole* q, std::byte* out) { store(q, out); }
};

/// Rounds the inputs of each unit, writes what one of its numbers is worth to the unit's place and
/// calls take(numbers, place).
template <class Product, class Whole, class Take>
inline void for_each_rounded(const float* x, const float* scale, bool per_column,
                             std::int64_t count, std::int64_t units, std::byte* place,
                             const Take& take) {
  alignas(64) float inputs[kWholeInputs];
  alignas(64) Whole q[kWholeInputs];
  for (std::int64_t unit = 0; unit < units; ++unit, place += Product::planes.table_bytes()) {
    const std::int64_t first = unit * Product::kInputs,
                       left = count - first < Product::kInputs ? count - first : Product::kInputs;
    const float largest =
        scaled(x + first, scale + (per_column ? first : 0), per_column, left, inputs);
    const float limit = Product::limit(largest, inputs);
    const bool any = limit >= Product::kSmallest;
    const Floats inverse = splat(any ? Product::kLargest / limit : 0);
    for (std::int64_t i = 0; i < kWholeInputs; i += kLanes) {
      store_whole(q + i, mul(load(inputs + i), inverse));
    }
    const float factor = any ? limit / Product::kLargest : 0;
    std::memcpy(place, &factor, sizeof factor);
    take(q, place);
  }
}

template <class Product>
void whole_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  using Whole = typename Product::Whole;
  for_each_rounded<Product, Whole>(
      x, scale, per_column, count, units, table, [](const Whole* q, std::byte* unit) {
        for (std::int64_t g = 0; g < kUnitGroups; ++g) {
          Product::store_group(q + 4 * g, unit + kUnitHeader + Product::group_place(g));
        }
      });
}

/// LaneProduct::inputs: in place of a table a token's numbers, which fit its place.
template <class Product>
void whole_inputs(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  static_assert(kUnitHeader + kWholeInputs * sizeof(std::int32_t) <= Product::planes.table_bytes());
  for_each_rounded<Product, std::int32_t>(
      x, scale, per_column, count, units, table, [](const std::int32_t* q, std::byte* unit) {
        std::memcpy(unit + kUnitHeader, q, kWholeInputs * sizeof *q);
      });
}

/// Of at most one unit's inputs.
template <class Product>
inline std::int64_t words_of(std::int64_t inputs) {
  constexpr std::int64_t kWord = Product::planes.word_inputs();
  return (inputs + kWord - 1) / kWord;
}

/// Calls take(signs, table, words, row) for the units of a chunk and the rows of a block.
template <class Product, class Take>
inline void for_each_unit(const std::byte* signs, const std::byte* table, std::int64_t count,
                          const Take& take) {
  constexpr Planes planes = Product::planes;
  for (; count > 0; count -= Product::kInputs) {
    const std::int64_t inputs = count < Product::kInputs ? count : Product::kInputs;
    const std::int64_t words = words_of<Product>(inputs);
    for (std::int64_t row = 0; row < kInt8BlockRows; row += planes.rows()) {
      take(signs, table, words, row);
      signs += words * planes.steps * planes.rows();
    }
    table += planes.table_bytes();
  }
}

template <class Product>
void whole_chunk(const std::byte* const* words, std::int64_t, std::int64_t, const std::byte* table,
                 std::int64_t count, float* sums) {
  for_each_unit<Product>(
      *words, table, count,
      [sums](const std::byte* signs, const std::byte* table, std::int64_t words, std::int64_t row) {
        Product::add_unit(signs, table, words, sums + row);
      });
}

template <class Product>
constexpr SignProduct whole_product(std::int64_t chunk_units, decltype(SignProduct::repack) repack,
                                    decltype(SignProduct::add_chunk_of_group) chunk_of_group,
                                    const LaneProduct& lanes = {}) {
  constexpr Planes planes = Product::planes;
  return {.block_rows = kInt8BlockRows,
          .unit_inputs = Product::kInputs,
          .word_inputs = planes.word_inputs(),
          .word_bytes = planes.word_bytes(),
          .unit_table_bytes = planes.table_bytes(),
          .chunk_units = chunk_units,
          .group_blocks = 2,
          .repack = repack,
          .tables = whole_tables<Product>,
          .add_chunk = whole_chunk<Product>,
          .add_chunk_of_group = chunk_of_group,
          .lanes = lanes};
}

}  // namespace
}  // namespace fbi::kernels
