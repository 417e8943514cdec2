#include "kernels/dispatch.h"

#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Exp);

std::vector<float> exp_of(const std::vector<float>& x) {
  Guarded<float> out(std::ssize(x));
  cpu_kernels().exp(x.data(), std::ssize(x), out.data());
  return out.values();
}

/// Error in units in the last place of the fp32 numbers around the true value.
double ulps(float found, double expected) {
  const double unit = std::ldexp(1.0, std::max(std::ilogb(expected), -126) - 23);
  return std::abs(found - expected) / unit;
}

TEST_P(Exp, ErrorIsBelowOneUnitInTheLastPlace) {
  // Every 97th number of [-87.68, -2^-30], on both sides of zero up to 88.37: some 3 million.
  std::vector<float> x;
  for (std::uint32_t u = std::bit_cast<std::uint32_t>(0x1p-30f);
       u <= std::bit_cast<std::uint32_t>(88.37f); u += 97) {
    const float magnitude = std::bit_cast<float>(u);
    x.push_back(magnitude);
    if (magnitude < 87.68f) x.push_back(-magnitude);
  }
  const auto y = exp_of(x);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, ulps(y[i], std::exp(double{x[i]})));
  RecordProperty("worst_ulps", std::to_string(worst));
  EXPECT_LE(worst, 1.0);
}

TEST_P(Exp, LimitsAndSpecialValues) {
  const auto y = exp_of({0.0f, -0.0f, -INFINITY, -1e38f, -104.0f, INFINITY, 1e38f, 89.0f, 1.0f});
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  for (int i : {2, 3, 4}) EXPECT_EQ(y[i], 0) << i;
  for (int i : {5, 6, 7}) EXPECT_EQ(y[i], INFINITY) << i;
  EXPECT_FLOAT_EQ(y[8], 2.7182818f);
  for (std::uint32_t nan : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFFC00000u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(std::isnan(exp_of({std::bit_cast<float>(nan)})[0])) << std::hex << nan;
  }
}

}  // namespace
}  // namespace fbi::kernels
