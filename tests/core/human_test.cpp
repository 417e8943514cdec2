#include "fbi/core/human.h"

#include <gtest/gtest.h>

#include <limits>

namespace fbi {
namespace {

TEST(Human, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 KB");
  EXPECT_EQ(format_bytes(999'949), "999.9 KB");
  EXPECT_EQ(format_bytes(999'950), "1.0 MB");
  EXPECT_EQ(format_bytes(1'400'000'000), "1.4 GB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::int64_t>::max()), "9223.4 PB");
}

TEST(Human, Counts) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(32'000), "32.0K");
  EXPECT_EQ(format_count(130'200'000), "130.2M");
  EXPECT_EQ(format_count(6'738'415'616), "6.7B");
}

TEST(Human, Durations) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(12.34), "12.3s");
  EXPECT_EQ(format_duration(59.94), "59.9s");
  EXPECT_EQ(format_duration(59.96), "1m00s");
  EXPECT_EQ(format_duration(307), "5m07s");
  EXPECT_EQ(format_duration(3599.6), "1h00m");
  EXPECT_EQ(format_duration(3 * 3600 + 12 * 60 + 59), "3h12m");
  EXPECT_EQ(format_duration(2 * 86400 + 4 * 3600), "2d04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "?");
}

TEST(Human, Rates) {
  EXPECT_EQ(format_rate(12'345, "tokens"), "12.3K tokens/s");
  EXPECT_EQ(format_rate(2.5, "steps"), "2.5 steps/s");
  EXPECT_EQ(format_rate(std::numeric_limits<double>::quiet_NaN(), "steps"), "?");
}

}  // namespace
}  // namespace fbi
