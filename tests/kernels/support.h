#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/core/random.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/kernels/dispatch.h"

namespace fbi::kernels {

/// A test that runs once per level of the dispatch table, skipped with the reason where a level
/// can't run.
class EveryLevel : public ::testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    for (const DispatchRow& row : dispatch_rows()) {
      if (row.level == GetParam() && !row.available()) {
        GTEST_SKIP() << level_name(row.level) << ": " << row.declined;
      }
    }
    force_level(GetParam());
  }
  void TearDown() override { force_level(std::nullopt); }

  /// The result of call() at the reference level.
  template <class Call>
  auto reference(const Call& call) {
    force_level(Level::kRef);
    auto result = call();
    force_level(GetParam());
    return result;
  }
};

inline std::string level_test_name(const ::testing::TestParamInfo<Level>& info) {
  return std::string(level_name(info.param));
}

#define FBI_EVERY_LEVEL(suite)                                                             \
  class suite : public EveryLevel {};                                                      \
  INSTANTIATE_TEST_SUITE_P(                                                                \
      , suite, ::testing::Values(Level::kRef, Level::kNeon, Level::kAvx2, Level::kAvx512), \
      level_test_name)

/// For what is compared with reference(), whose own level would be compared with itself.
#define FBI_EVERY_LEVEL_BUT_REF(suite)                                                             \
  class suite : public EveryLevel {};                                                              \
  INSTANTIATE_TEST_SUITE_P(, suite, ::testing::Values(Level::kNeon, Level::kAvx2, Level::kAvx512), \
                           level_test_name)

/// Those with vector instructions that can run here.
inline std::vector<Level> vector_levels() {
  std::vector<Level> levels;
  for (const DispatchRow& row : dispatch_rows()) {
    if (row.available() && row.level > Level::kPortable) levels.push_back(row.level);
  }
  return levels;
}

/// Cuts a range into `parts` whatever the grain and runs them last to first: what must not depend
/// on threads must not depend on this.
class CutFor final : public ParallelFor {
 public:
  explicit CutFor(int parts) : parts_(parts) {}
  int threads() const override { return parts_; }
  void run(std::int64_t begin, std::int64_t end, std::int64_t, const Body& body) override {
    for (int part = parts_ - 1; part >= 0; --part) {
      const std::int64_t first = begin + (end - begin) * part / parts_;
      const std::int64_t last = begin + (end - begin) * (part + 1) / parts_;
      if (first < last) body(first, last);
    }
  }

 private:
  int parts_;
};

/// Memory with marked borders, checked at the end: vector instructions must not write beyond a
/// row's last element, and sanitizers don't see masked stores.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::int64_t count, T fill = T{})
      : storage_(static_cast<std::size_t>(count) + 2 * kBorder, kMark), count_(count) {
    for (T& x : span()) x = fill;
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(std::ssize(values)) {
    for (std::int64_t i = 0; i < count_; ++i) data()[i] = values[i];
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    for (std::size_t i = 0; i < kBorder; ++i) {
      EXPECT_EQ(storage_[i], kMark) << "written " << kBorder - i << " before the start";
      EXPECT_EQ(storage_[kBorder + count_ + i], kMark) << "written " << i << " after the end";
    }
  }
  T* data() { return storage_.data() + kBorder; }
  std::span<T> span() { return {data(), static_cast<std::size_t>(count_)}; }
  std::vector<T> values() { return {span().begin(), span().end()}; }

 private:
  static constexpr std::size_t kBorder = 64;
  static constexpr T kMark = static_cast<T>(113);
  std::vector<T> storage_;
  std::int64_t count_;
};

inline std::vector<float> normals(std::int64_t count, std::uint64_t stream, double stddev = 1) {
  std::vector<float> values(static_cast<std::size_t>(count));
  fill_normal(values, 20240710, stream, 0, 0, stddev);
  return values;
}

/// Equal bit for bit, so that +0 and -0 differ.
inline std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (float x : values) bits.push_back(std::bit_cast<std::uint32_t>(x));
  return bits;
}

/// Below, at and above the widths of vectors, bytes and words.
inline const std::vector<std::int64_t> kOddSizes = {1,  2,  7,  8,  9,   15,  16,  17,
                                                    31, 32, 33, 63, 255, 256, 257, 515};

struct Pattern {
  const char* name;
  ScaleStrides strides;
};
inline const std::vector<Pattern> kPatterns = {{"column", ScaleStrides::per_column()},
                                               {"row", ScaleStrides::per_row()},
                                               {"single", ScaleStrides::single()}};

inline bool sign_at(const std::vector<std::uint8_t>& bits, MatrixShape shape, std::int64_t row,
                    std::int64_t column) {
  return bits[row * row_bytes(shape.columns) + column / 8] >> (column % 8) & 1;
}

inline std::vector<std::uint8_t> packed(const std::vector<float>& latent, MatrixShape shape) {
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(shape.rows * row_bytes(shape.columns)));
  SerialFor serial;
  pack_signs(latent.data(), shape, bits.data(), serial);
  return bits;
}

}  // namespace fbi::kernels
