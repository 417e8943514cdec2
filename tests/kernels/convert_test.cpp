#include "fbi/kernels/convert.h"

#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Convert);

std::uint16_t rounded(float x) {
  std::uint16_t out = 0;
  SerialFor serial;
  to_bfloat16(&x, 1, &out, serial);
  return out;
}

TEST_P(Convert, RoundsToNearestEven) {
  EXPECT_EQ(rounded(1.0f), 0x3F80);
  EXPECT_EQ(rounded(-2.0f), 0xC000);
  EXPECT_EQ(rounded(-0.0f), 0x8000);
  EXPECT_EQ(rounded(0x1.01p+0f), 0x3F80) << "half way: down to even";
  EXPECT_EQ(rounded(0x1.03p+0f), 0x3F82) << "half way: up to even";
  EXPECT_EQ(rounded(0x1.0102p+0f), 0x3F81) << "just above half way";
  EXPECT_EQ(rounded(0x1.fffffep+127f), 0x7F80) << "rounds up to infinity";
  EXPECT_EQ(rounded(INFINITY), 0x7F80);
  EXPECT_EQ(rounded(-INFINITY), 0xFF80);
  EXPECT_EQ(rounded(0x1p-130f), 0x0008) << "subnormal kept";
  for (std::uint32_t nan : {0x7F800001u, 0x7FFFFFFFu, 0xFFC00000u}) {
    EXPECT_EQ(rounded(std::bit_cast<float>(nan)), 0x7FC0);
  }
}

TEST_P(Convert, EveryBfloat16SurvivesTheWayThereAndBack) {
  constexpr std::int64_t kCount = 1 << 16;
  std::vector<std::uint16_t> all(kCount);
  for (std::int64_t i = 0; i < kCount; ++i) all[i] = static_cast<std::uint16_t>(i);
  for (int parts : {1, 2, 3}) {
    CutFor parallel(parts);
    Guarded<float> wide(kCount);
    Guarded<std::uint16_t> back(kCount);
    from_bfloat16(all.data(), kCount, wide.data(), parallel);
    to_bfloat16(wide.data(), kCount, back.data(), parallel);
    for (std::int64_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wide.data()[i]), static_cast<std::uint32_t>(i) << 16);
      ASSERT_EQ(back.data()[i], std::isnan(wide.data()[i]) ? 0x7FC0 : i);
    }
  }
}

TEST_P(Convert, EqualsTheReferenceAtEverySize) {
  for (std::int64_t count : kOddSizes) {
    const auto x = normals(count, 1);
    const auto run = [&](int parts) {
      CutFor parallel(parts);
      Guarded<std::uint16_t> half(count);
      Guarded<float> wide(count);
      to_bfloat16(x.data(), count, half.data(), parallel);
      from_bfloat16(half.data(), count, wide.data(), parallel);
      return std::pair(half.values(), wide.values());
    };
    const auto expected = reference([&] { return run(1); });
    for (int parts : {1, 2, 3}) EXPECT_EQ(run(parts), expected) << count << ", " << parts;
  }
}

}  // namespace
}  // namespace fbi::kernels
