#include "fbi/core/text_distance.h"

#include <gtest/gtest.h>

#include <vector>

namespace fbi {
namespace {

TEST(EditDistance, Cases) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("lr_end", "end_lr"), 6u);
  EXPECT_EQ(edit_distance("bteas", "betas"), 1u) << "a swap of neighbours is one edit";
  EXPECT_EQ(edit_distance("Seed", "seed"), 0u);
}

TEST(Nearest, FindsTheTypingError) {
  const std::vector<std::string> keys{"optimizer.lr", "optimizer.end_lr", "optimizer.eps",
                                      "train.steps"};
  EXPECT_EQ(nearest("optimiser.lr", keys), "optimizer.lr");
  EXPECT_EQ(nearest("optimizer.endlr", keys), "optimizer.end_lr");
  EXPECT_EQ(nearest("train.step", keys), "train.steps");
  EXPECT_EQ(nearest("batch", keys), "");
  EXPECT_EQ(nearest("", keys), "");
}

TEST(Nearest, ShortWordsAndTies) {
  const std::vector<std::string> words{"x", "kd", "ld"};
  EXPECT_EQ(nearest("y", words), "") << "nothing remains of a replaced single letter";
  EXPECT_EQ(nearest("X", words), "x");
  EXPECT_EQ(nearest("jd", words), "kd") << "the first of equals";
  EXPECT_EQ(nearest("kd", {}), "");
}

}  // namespace
}  // namespace fbi
