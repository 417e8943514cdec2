#include "fbi/checkpoint/commit.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "distributed/ranks.h"
#include "fbi/checkpoint/checkpoint_tensors.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/distributed/shard_plan.h"
#include "support/child_process.h"
#include "support/entries.h"
#include "support/expect_error.h"
#include "support/newest_checkpoint.h"
#include "support/temp_dir.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::entries;
using test::expect_error;
using testing::ElementsAre;

formats::CheckpointManifest manifest_of(std::int64_t step) {
  formats::CheckpointManifest manifest;
  manifest.step = step;
  manifest.config_hash = "abc";
  manifest.state_json = "{\"tokens\":7}";
  return manifest;
}

fs::path commit(const fs::path& root, std::int64_t step, const std::vector<TensorPart>& parts,
                const CommitOptions& options = {}) {
  const auto alone = distributed::make_single_rank();
  return commit_checkpoint(*alone, root, manifest_of(step), parts, options);
}

TEST(CommitCheckpoint, EveryDtypeAndShapeComesBackBitwise) {
  const test::TempDir root;
  std::vector<TensorPart> parts;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                    at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    parts.push_back(
        {std::string("t.") + c10::toString(type), at::arange(6).sub(2).to(type).view({3, 2})});
  }
  at::Tensor odd = at::zeros({4});
  odd[0] = -0.0f;
  odd[1] = std::numeric_limits<float>::quiet_NaN();
  odd[2] = std::numeric_limits<float>::denorm_min();
  odd[3] = -std::numeric_limits<float>::infinity();
  parts.push_back({"odd", odd});
  parts.push_back({"scalar", at::full({}, 1.5)});
  parts.push_back({"nothing", at::zeros({0, 3})});
  parts.push_back({"transposed", at::arange(6).view({2, 3}).t()});

  const fs::path folder = commit(root.path(), 12, parts);
  EXPECT_EQ(folder, root / "step-00000012");
  const formats::CheckpointReader reader(folder);
  EXPECT_EQ(reader.manifest().step, 12);
  EXPECT_EQ(reader.manifest().config_hash, "abc");
  EXPECT_EQ(reader.manifest().state_json, "{\"tokens\":7}");
  const CheckpointTensors tensors(reader);
  EXPECT_EQ(tensors.names().size(), parts.size());
  for (const TensorPart& part : parts) {
    const at::Tensor loaded = tensors.load(part.name);
    const at::Tensor saved = part.rows.contiguous();
    ASSERT_EQ(loaded.scalar_type(), saved.scalar_type()) << part.name;
    ASSERT_EQ(loaded.sizes(), saved.sizes()) << part.name;
    if (saved.numel() == 0) continue;
    EXPECT_EQ(std::memcmp(loaded.const_data_ptr(), saved.const_data_ptr(), saved.nbytes()), 0)
        << part.name;
  }
}

TEST(CommitCheckpoint, CutsFilesBySize) {
  const test::TempDir root;
  std::vector<TensorPart> parts;
  for (int i = 0; i < 5; ++i)
    parts.push_back({"t" + std::to_string(i), at::full({10}, i, at::kFloat)});
  parts.push_back({"large", at::zeros({100})});
  CommitOptions options;
  options.max_shard_bytes = 80;  // two of the small ones
  const fs::path folder = commit(root.path(), 1, parts, options);
  EXPECT_THAT(entries(folder),
              ElementsAre("manifest.json", "shard-r00000-00000.safetensors",
                          "shard-r00000-00001.safetensors", "shard-r00000-00002.safetensors",
                          "shard-r00000-00003.safetensors"));
  const formats::CheckpointReader reader(folder);
  EXPECT_EQ(reader.manifest().shards.size(), 4u);
  EXPECT_EQ(CheckpointTensors(reader).load("t4")[9].item<float>(), 4);
}

TEST(CommitCheckpoint, RetentionRunsAfterTheCommitAndSparesThisAndLaterOnes) {
  const test::TempDir root;
  CommitOptions options;
  options.keep = 2;
  for (const std::int64_t step : {10, 20, 30, 40}) {
    commit(root.path(), step, {{"t", at::full({2}, step)}}, options);
  }
  EXPECT_THAT(entries(root.path()), ElementsAre("step-00000030", "step-00000040"));
  commit(root.path(), 25, {{"t", at::full({2}, 25)}}, options);
  EXPECT_THAT(entries(root.path()), ElementsAre("step-00000025", "step-00000030", "step-00000040"));
}

TEST(CommitCheckpoint, OneOfTheSameStepIsReplaced) {
  const test::TempDir root;
  const fs::path folder = commit(root.path(), 5, {{"t", at::full({2}, 1)}});
  const auto value = [&] {
    return CheckpointTensors(formats::CheckpointReader(folder)).names().size();
  };
  commit(root.path(), 5, {{"t", at::full({2}, 2)}, {"u", at::full({2}, 2)}});
  EXPECT_EQ(value(), 2u);
  fs::resize_file(folder / "shard-r00000-00000.safetensors", 50);
  commit(root.path(), 5, {{"t", at::full({2}, 2)}});
  EXPECT_EQ(value(), 1u);
  EXPECT_THAT(entries(root.path()), ElementsAre("step-00000005"));
}

TEST(CommitCheckpoint, TamperingFallsBackToTheOneBefore) {
  const test::TempDir root;
  for (const std::int64_t step : {1, 2}) commit(root.path(), step, {{"t", at::full({64}, step)}});
  const fs::path shard = root / "step-00000002/shard-r00000-00000.safetensors";
  std::string bytes = read_file(shard);
  bytes.back() ^= 1;
  write_file(shard, bytes);
  const auto newest = test::open_newest_checkpoint(root.path());
  EXPECT_EQ(newest->manifest().step, 1);
  EXPECT_TRUE(at::equal(CheckpointTensors(*newest).load("t"), at::full({64}, 1)));
}

TEST(CommitCheckpoint, RefusesWhatItCannotSave) {
  const test::TempDir root;
  const at::Tensor rows = at::zeros({2, 3});
  expect_error<UsageError>([&] { commit(root.path(), 1, {{"a@1", rows}}); }, "a@1", "@");
  expect_error<UsageError>(
      [&] {
        commit(root.path(), 1, {{"a", rows}, {"a", rows}});
      },
      "\"a\"", "twice");
  expect_error<UsageError>(
      [&] {
        commit(root.path(), 1, {{"a", rows, 3, 4}});
      },
      "2 rows from row 3", "4 rows");
  expect_error<UsageError>(
      [&] {
        commit(root.path(), 1, {{"a", rows.to(at::kComplexFloat)}});
      },
      "ComplexFloat");
  EXPECT_TRUE(entries(root.path()).empty());
  write_file(root / "file", "");
  expect_error<DiskError>([&] { commit(root / "file", 1, {{"a", rows}}); }, "file");
}

TEST(CommitCheckpoint, AFullDiskLeavesTheOneBeforeAndNoRest) {
  // A limit on the size of files makes writing fail in the middle, as a full disk does.
  const test::TempDir root;
  commit(root.path(), 1, {{"t", at::full({4}, 1)}});
  for (const rlim_t limit : {0, 100, 3000, 40000}) {
    test::Child child([&] {
      signal(SIGXFSZ, SIG_IGN);
      const struct rlimit size = {limit, limit};
      if (setrlimit(RLIMIT_FSIZE, &size) != 0) _exit(3);
      CommitOptions options;
      // The small tensors first, the large one in a file of its own.
      options.max_shard_bytes = 2000;
      try {
        commit(root.path(), 2,
               {{"t", at::zeros({256})}, {"u", at::zeros({256})}, {"v", at::zeros({20000})}},
               options);
      } catch (const DiskError&) {
        _exit(42);
      }
    });
    EXPECT_EQ(WEXITSTATUS(child.wait()), 42) << limit;
    EXPECT_THAT(entries(root.path()), ElementsAre("step-00000001")) << limit;
  }
  EXPECT_EQ(test::open_newest_checkpoint(root.path())->manifest().step, 1);
  commit(root.path(), 2, {{"t", at::full({4}, 2)}});
  EXPECT_EQ(test::open_newest_checkpoint(root.path())->manifest().step, 2);
}

/// [rows, 3] with different values everywhere.
at::Tensor matrix(std::int64_t rows) {
  return at::arange(rows * 3, at::kFloat).view({rows, 3});
}

void commit_on_ranks(const fs::path& root, std::int64_t step, int size) {
  test::run_ranks_ok(size, [&](distributed::Communicator& ranks) {
    std::vector<TensorPart> parts = {{"norm", matrix(1).view({3})}};
    for (const std::int64_t rows : {0, 1, 3, 4, 10}) {
      const auto range = distributed::range(rows, ranks.rank(), size);
      parts.push_back({"m" + std::to_string(rows),
                       matrix(rows).narrow(0, range.begin, range.rows()).contiguous(), range.begin,
                       rows});
    }
    EXPECT_EQ(commit_checkpoint(ranks, root, manifest_of(step), parts),
              root / formats::checkpoint_folder_name(step));
    EXPECT_TRUE(fs::exists(root / formats::checkpoint_folder_name(step) / "manifest.json"))
        << "no rank returns before the checkpoint exists";
  });
}

TEST(CommitCheckpoint, AnyNumberOfRanksReadsWhatAnyOtherWrote) {
  const test::TempDir root;
  std::int64_t step = 0;
  for (const int writers : {1, 2, 3, 4}) {
    commit_on_ranks(root.path(), ++step, writers);
    const formats::CheckpointReader reader(root.path() / formats::checkpoint_folder_name(step));
    const CheckpointTensors tensors(reader);
    EXPECT_THAT(tensors.names(), ElementsAre("m0", "m1", "m10", "m3", "m4", "norm"));
    EXPECT_TRUE(at::equal(tensors.load("norm"), matrix(1).view({3})));
    for (const std::int64_t rows : {0, 1, 3, 4, 10}) {
      const std::string name = "m" + std::to_string(rows);
      EXPECT_EQ(tensors.shape(name), (std::vector<std::int64_t>{rows, 3}));
      for (const int readers : {1, 2, 3, 4, 7}) {
        for (int rank = 0; rank < readers; ++rank) {
          const auto range = distributed::range(rows, rank, readers);
          at::Tensor out = at::full({range.rows(), 3}, -1, at::kFloat);
          tensors.load_rows(name, range.begin, range.end, out);
          EXPECT_TRUE(at::equal(out, matrix(rows).narrow(0, range.begin, range.rows())));
        }
      }
    }
  }
}

TEST(CommitCheckpoint, AFailureOfOneRankFailsAllAndLeavesNothing) {
  const test::TempDir root;
  const auto errors = test::run_ranks(3, [&](distributed::Communicator& ranks) {
    std::vector<TensorPart> parts = {{"t", matrix(2), 2 * ranks.rank(), 6}};
    if (ranks.rank() == 1) parts[0].name = "bad@name";
    commit_checkpoint(ranks, root.path(), manifest_of(1), parts);
  });
  for (const auto& error : errors) {
    expect_error<UsageError>([&] { std::rethrow_exception(error); }, "bad@name");
  }
  EXPECT_TRUE(entries(root.path()).empty());
}

TEST(CheckpointTensors, RefusesWhatDoesNotFit) {
  const test::TempDir root;
  const fs::path folder = commit(root.path(), 1, {{"t", matrix(4)}, {"s", at::zeros({})}});
  const formats::CheckpointReader reader(folder);
  const CheckpointTensors tensors(reader);
  at::Tensor out = at::zeros({4, 2});
  expect_error<CheckpointError>([&] { tensors.load("t", out); }, "\"t\"", "expected Float [4, 2]",
                                "found Float [4, 3]", folder.string());
  out = at::zeros({4, 3}, at::kDouble);
  expect_error<CheckpointError>([&] { tensors.load("t", out); }, "Double");
  out = at::zeros({2, 3});
  expect_error<CheckpointError>([&] { tensors.load_rows("t", 3, 5, out); }, "rows 3 to 5",
                                "[4, 3]");
  expect_error<CheckpointError>([&] { tensors.load_rows("t", -1, 1, out); }, "rows -1 to 1");
  expect_error<CheckpointError>([&] { tensors.load_rows("s", 0, 1, out); }, "\"s\"");
  expect_error<CheckpointError>([&] { tensors.load("u", out); }, "no tensor \"u\"");
}

TEST(CheckpointTensors, LoadsIntoTensorsThatAreNotContiguous) {
  const test::TempDir root;
  const formats::CheckpointReader reader(commit(root.path(), 1, {{"t", matrix(4)}}));
  at::Tensor wide = at::zeros({2, 6});
  at::Tensor out = wide.narrow(1, 3, 3);
  CheckpointTensors(reader).load_rows("t", 1, 3, out);
  EXPECT_TRUE(at::equal(out, matrix(4).narrow(0, 1, 2)));
  EXPECT_TRUE(at::equal(wide.narrow(1, 0, 3), at::zeros({2, 3})));
}

}  // namespace
}  // namespace fbi::checkpoint
