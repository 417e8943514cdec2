#include "fbi/core/hash.h"

#include <gtest/gtest.h>

#include <string>

#include "support/bytes_of.h"

namespace fbi {
namespace {

using test::bytes_of;

// As `xxhsum -H2` and `-H3` print them; XXH3 is frozen since 0.8.
TEST(Hash, KnownValues) {
  EXPECT_EQ(hash128_hex({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2u);
  EXPECT_EQ(hash128_hex(bytes_of("abc")), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(hash64("abc"), 0x78af5f94892f3950u);
}

TEST(Hash, SeedChangesTheKey) {
  EXPECT_NE(hash64("abc", 1), hash64("abc", 2));
}

TEST(Hash, OfEndsPassesOverTheMiddle) {
  constexpr std::size_t kEnd = 64 << 10;
  const std::string text(3 * kEnd, 'a');
  const std::string hash = hash128_of_ends_hex(bytes_of(text));
  EXPECT_EQ(hash, hash128_hex(bytes_of(text.substr(0, 2 * kEnd))));
  for (const auto& [place, is_seen] : {std::pair(std::size_t{0}, true),
                                       {kEnd - 1, true},
                                       {kEnd, false},
                                       {2 * kEnd - 1, false},
                                       {2 * kEnd, true},
                                       {3 * kEnd - 1, true}}) {
    std::string other = text;
    other[place] = 'b';
    EXPECT_EQ(hash128_of_ends_hex(bytes_of(other)) != hash, is_seen) << place;
  }
  EXPECT_EQ(hash128_of_ends_hex(bytes_of("abc")), hash128_hex(bytes_of("abcabc")));
}

TEST(Hash, StreamingEqualsOneGo) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 31);
  for (const std::size_t cut : {0, 1, 239, 240, 241, 1024, 4999, 5000}) {
    Hasher128 hasher;
    hasher.update(bytes_of(text).first(cut));
    hasher.update({});
    hasher.update(bytes_of(text).subspan(cut));
    EXPECT_EQ(hasher.hex(), hash128_hex(bytes_of(text))) << cut;
    EXPECT_EQ(hasher.hex(), hasher.hex()) << "asking must not change the state";
  }
}

}  // namespace
}  // namespace fbi
