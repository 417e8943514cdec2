#include "fbi/kernels/dispatch.h"

#include <cstdlib>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::kernels {
namespace {

using test::expect_error;
using ::testing::IsEmpty;
using ::testing::Not;

class Dispatch : public ::testing::Test {
 protected:
  void SetUp() override { use(nullptr); }
  void TearDown() override { use(nullptr); }

  /// Sets or removes FBI_KERNEL and forgets the choice made before.
  static void use(const char* level) {
    level ? setenv("FBI_KERNEL", level, 1) : unsetenv("FBI_KERNEL");
    force_level(std::nullopt);
  }
};

TEST_F(Dispatch, TakesTheFirstRowThatCanRunHere) {
  for (const DispatchRow& row : dispatch_rows()) {
    if (!row.available()) continue;
    EXPECT_EQ(chosen_level(), row.level);
    return;
  }
  FAIL() << "no row is available";
}

TEST_F(Dispatch, ListsTheReferenceLastAndAlwaysAvailable) {
  const auto rows = dispatch_rows();
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(level_name(rows[0].level), "avx512");
  EXPECT_EQ(level_name(rows[1].level), "avx2");
  EXPECT_EQ(level_name(rows[2].level), "neon");
  EXPECT_EQ(level_name(rows[3].level), "portable");
  EXPECT_EQ(level_name(rows[4].level), "ref");
  EXPECT_TRUE(rows[3].available() && rows[4].available());
#if defined(__aarch64__)
  EXPECT_TRUE(rows[2].available());
#endif
  for (const DispatchRow& row : rows) EXPECT_THAT(row.needs, Not(IsEmpty()));
}

TEST_F(Dispatch, EnvironmentForcesARow) {
  for (const DispatchRow& row : dispatch_rows()) {
    const std::string name(level_name(row.level));
    use(name.c_str());
    if (row.available()) {
      EXPECT_EQ(chosen_level(), row.level);
    } else {
      expect_error<UsageError>([] { chosen_level(); }, "FBI_KERNEL=" + name, row.declined, "ref");
    }
  }
  use("");  // as if unset
  EXPECT_NO_THROW(chosen_level());
}

TEST_F(Dispatch, UnknownNameListsTheChoices) {
  use("sse9");
  expect_error<UsageError>([] { chosen_level(); }, "FBI_KERNEL=sse9 is unknown", "avx512", "avx2",
                           "neon", "ref");
  use("ref");
  EXPECT_EQ(chosen_level(), Level::kRef);
}

TEST_F(Dispatch, ForcedLevelOverridesTheEnvironment) {
  use("nonsense");
  force_level(Level::kRef);
  EXPECT_EQ(chosen_level(), Level::kRef);
}

}  // namespace
}  // namespace fbi::kernels
