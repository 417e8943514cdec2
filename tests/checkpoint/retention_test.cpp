#include "checkpoint/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "checkpoint/temporary.h"
#include "fbi/core/file.h"
#include "fbi/core/system.h"
#include "fbi/formats/checkpoint_reader.h"
#include "support/entries.h"
#include "support/temp_dir.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::entries;
using testing::ElementsAre;
using testing::IsEmpty;
using Steps = std::vector<std::int64_t>;

TEST(ToDelete, KeepsTheNewestAndDeletesOldestFirst) {
  EXPECT_THAT(to_delete({100, 200, 300, 400, 500}, 3, 0), ElementsAre(100, 200));
  EXPECT_THAT(to_delete({500, 100, 400, 200, 300}, 3, 0), ElementsAre(100, 200));
}

TEST(ToDelete, Boundaries) {
  EXPECT_THAT(to_delete({}, 3, 0), IsEmpty());
  EXPECT_THAT(to_delete({1, 2, 3}, 3, 0), IsEmpty());
  EXPECT_THAT(to_delete({1, 2, 3, 4}, 3, 0), ElementsAre(1));
  EXPECT_THAT(to_delete({0, 1}, 2, 0), IsEmpty());
  EXPECT_THAT(to_delete({1, 2, 3}, std::numeric_limits<std::int64_t>::max(), 0), IsEmpty());
}

TEST(ToDelete, NeverGoesBelowTwo) {
  for (const std::int64_t keep : {std::int64_t{-5}, std::int64_t{0}, std::int64_t{1}}) {
    EXPECT_THAT(to_delete({1}, keep, 0), IsEmpty());
    EXPECT_THAT(to_delete({1, 2}, keep, 0), IsEmpty());
    EXPECT_THAT(to_delete({1, 2, 3}, keep, 0), ElementsAre(1));
  }
}

TEST(ToDelete, SparesAndDoesNotCountEveryNth) {
  EXPECT_THAT(to_delete({100, 150, 200, 250, 300, 350, 400}, 2, 100), ElementsAre(150));
  EXPECT_THAT(to_delete({400, 350, 300, 250, 200, 150, 100}, 2, 200), ElementsAre(100, 150, 250));
  EXPECT_THAT(to_delete({100, 200, 300, 400}, 2, 100), IsEmpty());
  EXPECT_THAT(to_delete({100, 200, 300, 400}, 2, 1000), ElementsAre(100, 200));
  EXPECT_THAT(to_delete({1, 2, 3, 4, 5, 6}, 0, 3), ElementsAre(1, 2));
}

TEST(ToDelete, SparesAllWhileStepsFail) {
  EXPECT_THAT(to_delete({1, 2, 3, 4, 5, 6}, std::numeric_limits<std::int64_t>::max(), 3),
              IsEmpty());
}

/// A valid checkpoint without tensors.
void make_checkpoint(const fs::path& checkpoints, std::int64_t step) {
  const fs::path folder = checkpoints / formats::checkpoint_folder_name(step);
  fs::create_directories(folder);
  formats::CheckpointManifest manifest;
  manifest.step = step;
  write_file(folder / "manifest.json", formats::manifest_to_json(manifest));
}

TEST(ApplyRetention, CountsOnlyValidOnesAndLeavesInvalidAndLaterOnes) {
  const test::TempDir root;
  for (const std::int64_t step : {1, 2, 3, 4, 5, 9}) make_checkpoint(root.path(), step);
  write_file(root / "step-00000004/manifest.json", "{}");
  apply_retention(root.path(), 5, 2, 0);
  EXPECT_THAT(entries(root.path()),
              ElementsAre("step-00000003", "step-00000004", "step-00000005", "step-00000009"));
}

TEST(ApplyRetention, KeepsEveryNthWhateverLiesBetween) {
  const test::TempDir root;
  for (const std::int64_t step : {1, 2, 3, 4, 5, 6, 7, 8}) make_checkpoint(root.path(), step);
  write_file(root / "step-00000007/manifest.json", "{}");  // neither counted nor deleted
  apply_retention(root.path(), 8, 2, 3);
  EXPECT_THAT(entries(root.path()), ElementsAre("step-00000003", "step-00000005", "step-00000006",
                                                "step-00000007", "step-00000008"));
  apply_retention(root.path(), 8, 2, 0);
  EXPECT_THAT(entries(root.path()), ElementsAre("step-00000006", "step-00000007", "step-00000008"));
}

TEST(RemoveTemporaries, RemovesWhatDeadProcessesLeft) {
  const test::TempDir root;
  const std::string host = host_name(), me = std::to_string(process_id());
  const std::string start = std::to_string(process_start_ticks(process_id()));
  const std::string live = ".tmp-step-00000007-" + host + "-" + me + "-" + start;
  for (const std::string& name :
       {live, ".tmp-step-00000008-" + host + "-" + me + "-1",         // the pid is used again
        ".tmp-delete-step-00000001-" + host + "-999999999-" + start,  // no such process
        ".tmp-step-00000009-another-host-" + me + "-" + start,        // the lock is ours
        std::string(".tmp-"), std::string("step-00000001"), std::string("notes")}) {
    fs::create_directories(root / name);
    write_file(root / name / "file", "x");
  }
  remove_temporaries(root.path());
  EXPECT_THAT(entries(root.path()), ElementsAre(live, "notes", "step-00000001"));
  remove_temporaries(root / "absent");
}

}  // namespace
}  // namespace fbi::checkpoint
