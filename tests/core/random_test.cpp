#include "fbi/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi {
namespace {

using test::expect_error;
using Words = std::array<std::uint32_t, 4>;

// Known answers of the paper's authors for philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(FillNormal, DoesNotDependOnTheCut) {
  std::vector<float> whole(101);
  fill_normal(whole, 7, 3, 0, 0.5, 2.0);
  for (const std::size_t cut : {0, 1, 2, 50, 51, 100, 101}) {
    std::vector<float> parts(whole.size());
    fill_normal(std::span(parts).first(cut), 7, 3, 0, 0.5, 2.0);
    fill_normal(std::span(parts).subspan(cut), 7, 3, cut, 0.5, 2.0);
    EXPECT_EQ(parts, whole) << cut;
  }
}

TEST(FillNormal, MomentsAndIndependenceOfStreams) {
  constexpr std::size_t kCount = 200'000;
  std::vector<float> a(kCount), b(kCount);
  fill_normal(a, 1, 1, 0, 3.0, 2.0);
  fill_normal(b, 1, 2, 0, 3.0, 2.0);
  double mean = 0, square = 0, fourth = 0, product = 0, neighbours = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const double x = (a[i] - 3.0) / 2.0, y = (b[i] - 3.0) / 2.0;
    mean += x / kCount;
    square += x * x / kCount;
    fourth += x * x * x * x / kCount;
    product += x * y / kCount;
    if (i > 0) neighbours += x * (a[i - 1] - 3.0) / 2.0 / kCount;
  }
  // Five standard errors of each estimate over 200,000 numbers.
  const double error = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(mean, 0, error);
  EXPECT_NEAR(square, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth, 3, error * std::sqrt(96.0));
  EXPECT_NEAR(product, 0, error);
  EXPECT_NEAR(neighbours, 0, error);
}

// Initial weights are part of a run's identity. Expected values: the same formula in another
// language; the tolerance of EXPECT_FLOAT_EQ leaves room for another mathematical library.
TEST(FillNormal, IsFrozen) {
  std::vector<float> numbers(2);
  fill_normal(numbers, 42, 6, 10, 0.0, 1.0);
  EXPECT_FLOAT_EQ(numbers[0], 1.6624604370965679f);
  EXPECT_FLOAT_EQ(numbers[1], -0.6245729224037037f);
}

TEST(RandomStream, WordsAreThoseOfPhiloxInOrder) {
  RandomStream stream(5, 9);
  std::vector<std::uint32_t> words(8);
  for (auto& word : words) word = stream.next_u32();
  const Words first = philox(5, 0, 9), second = philox(5, 1, 9);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), words.begin()));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), words.begin() + 4));
}

TEST(RandomStream, DoublesAreUniform) {
  RandomStream stream(1, 0);
  double mean = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = stream.next_double();
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    mean += x / 100'000;
  }
  EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(1.0 / 12 / 100'000));  // five standard errors
}

TEST(RandomStream, BelowABound) {
  RandomStream stream(1, 0);
  std::vector<int> count(3);
  for (int i = 0; i < 30'000; ++i) ++count.at(stream.next_below(3));
  for (const int c : count) EXPECT_NEAR(c, 10'000, 5 * std::sqrt(30'000 * (2.0 / 9)));
  EXPECT_EQ(stream.next_below(1), 0u);
  EXPECT_LT(stream.next_below(~0ull), ~0ull);
  expect_error<UsageError>([&] { stream.next_below(0); }, "bound must be positive");
}

TEST(KeyedPermutation, IsABijectionOfEverySize) {
  for (std::uint64_t size = 1; size <= 300; ++size) {
    const KeyedPermutation permutation(size, size * 17);
    std::set<std::uint64_t> images;
    for (std::uint64_t i = 0; i < size; ++i) images.insert(permutation(i));
    ASSERT_EQ(images.size(), size);
    ASSERT_LT(*images.rbegin(), size);
  }
  for (const std::uint64_t size : {65'536, 65'537}) {
    const KeyedPermutation permutation(size, 1);
    std::vector<bool> seen(size);
    for (std::uint64_t i = 0; i < size; ++i) seen.at(permutation(i)) = true;
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<long>(size));
  }
}

TEST(KeyedPermutation, SpreadsAndDependsOnTheKey) {
  constexpr std::uint64_t kSize = 10'000;
  const KeyedPermutation a(kSize, 1), b(kSize, 2);
  int same = 0, fixed = 0, adjacent = 0;
  double distance = 0;
  for (std::uint64_t i = 0; i < kSize; ++i) {
    same += a(i) == b(i);
    fixed += a(i) == i;
    if (i > 0) adjacent += a(i) == a(i - 1) + 1;
    distance += std::abs(static_cast<double>(a(i)) - static_cast<double>(i)) / kSize;
  }
  // Each count is Poisson with mean 1 for random permutations; more than 8 has probability 1e-6.
  EXPECT_LE(same, 8);
  EXPECT_LE(fixed, 8);
  EXPECT_LE(adjacent, 8);
  EXPECT_NEAR(distance / kSize, 1.0 / 3, 0.02);  // a third in the mean, standard error 0.003
}

TEST(KeyedPermutation, EveryOrderOfThreeOccurs) {
  std::set<std::vector<std::uint64_t>> orders;
  for (std::uint64_t key = 0; key < 500; ++key) {
    const KeyedPermutation permutation(3, key);
    orders.insert({permutation(0), permutation(1), permutation(2)});
  }
  EXPECT_EQ(orders.size(), 6u);
}

TEST(KeyedPermutation, HugeSizesAndRefusals) {
  const KeyedPermutation huge(~0ull, 3);
  EXPECT_LT(huge(~0ull - 1), ~0ull);
  expect_error<UsageError>([&] { huge(~0ull); }, "expected an index below 18446744073709551615");
  expect_error<UsageError>([] { KeyedPermutation(0, 1); }, "size must be positive");
}

// Data order is part of a run's identity: these values may never change.
TEST(KeyedPermutation, IsFrozen) {
  const KeyedPermutation permutation(1000, 42);
  const std::vector<std::uint64_t> first{permutation(0), permutation(1), permutation(2),
                                         permutation(3)};
  EXPECT_EQ(first, (std::vector<std::uint64_t>{784, 400, 230, 575}));
}

}  // namespace
}  // namespace fbi
