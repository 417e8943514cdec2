#include "fbi/core/temporary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/system.h"
#include "support/entries.h"
#include "support/temp_dir.h"

namespace fbi {
namespace {

TEST(Temporary, IsThisProcessesOwn) {
  const auto path = own_temporary("folder/.tmp-a");
  EXPECT_EQ(path.string(), concat("folder/.tmp-a-", host_name(), "-", process_id(), "-",
                                  process_start_ticks(process_id())));
  EXPECT_TRUE(has_live_owner(path.string()));
  EXPECT_FALSE(has_live_owner(path.string() + "0"));  // the pid is used again
  EXPECT_FALSE(has_live_owner(concat(".tmp-a-", host_name(), "-999999999-1")));
  for (const char* name : {"", "-", ".tmp-a", ".tmp-a-1-1"}) EXPECT_FALSE(has_live_owner(name));
}

TEST(Temporary, OnlyThoseOfDeadProcessesOfThisMachineAreRemoved) {
  const test::TempDir folder;
  const std::string host = host_name(), prefix = ".tmp-a-" + host;
  const std::string live = own_temporary(".tmp-a").string();
  for (const std::string& name :
       {live, prefix + "-999999999-1", ".tmp-a-not" + host + "-999999999-1",
        ".tmp-a-b-" + host + "-999999999-1", prefix + "-999999999", prefix + "-999999999-1-x"})
    write_file(folder / name, "");
  std::filesystem::create_directories(folder / (prefix + "-999999998-1") / "below");
  remove_dead_temporaries(folder / ".tmp-a");
  EXPECT_THAT(test::entries(folder.path()),
              testing::UnorderedElementsAre(live, ".tmp-a-not" + host + "-999999999-1",
                                            ".tmp-a-b-" + host + "-999999999-1",
                                            prefix + "-999999999", prefix + "-999999999-1-x"));
  remove_dead_temporaries(folder / "absent" / ".tmp-a");
}

}  // namespace
}  // namespace fbi
