#include "fbi/core/error.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <ranges>
#include <vector>

namespace fbi {
namespace {

TEST(Concat, JoinsWhatAStreamTakes) {
  EXPECT_EQ(concat("step ", 3, ", loss ", 0.5, '.'), "step 3, loss 0.5.");
}

TEST(Join, PutsTheSeparatorBetweenItems) {
  EXPECT_EQ(join(std::vector<std::int64_t>{}), "");
  EXPECT_EQ(join(std::vector<std::int64_t>{2}), "2");
  EXPECT_EQ(join(std::vector<std::string>{"a", "", "b"}), "a, , b");
  EXPECT_EQ(join(std::vector<std::string>{"a", "b"}, " "), "a b");
  const std::map<std::string, int> counts = {{"b", 1}, {"a", 2}};
  EXPECT_EQ(join(counts | std::views::keys), "a, b");
}

}  // namespace
}  // namespace fbi
