#include "fbi/formats/sharded_tensors.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/formats/model_source.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

class ShardedTensorsTest : public testing::Test {
 protected:
  /// One file per list of tensors, as one rank after the other writes them.
  fs::path write(const std::vector<std::vector<TensorView>>& files, int version = 2) {
    const fs::path folder = folder_ / checkpoint_folder_name(3);
    fs::remove_all(folder);
    fs::create_directory(folder);
    CheckpointManifest manifest;
    manifest.format_version = version;
    manifest.step = 3;
    for (const auto& tensors : files) {
      const std::string name = concat("shard-", manifest.shards.size(), ".safetensors");
      const WrittenFile written = write_safetensors(folder / name, tensors);
      manifest.shards.push_back({name, written.bytes, written.xxh3_128});
    }
    write_file(folder / "manifest.json", manifest_to_json(manifest));
    return folder;
  }

  /// Rows [begin, end) of the matrix [4, 2] that counts from 0.
  static OwnedTensor rows(std::string name, std::int64_t begin, std::int64_t end) {
    std::vector<float> values;
    for (std::int64_t i = 2 * begin; i < 2 * end; ++i) values.push_back(static_cast<float>(i));
    return {std::move(name), DType::kF32, {end - begin, 2}, values};
  }

  test::TempDir folder_;
};

TEST(PartNames, RoundTripAndWhatIsNone) {
  const auto part = parse_part_name("a@b.weight@16:32/48");
  ASSERT_TRUE(part);
  EXPECT_EQ(part->name, "a@b.weight");
  EXPECT_EQ(part->begin, 16);
  EXPECT_EQ(part->end, 32);
  EXPECT_EQ(part->total, 48);
  EXPECT_EQ(to_string(*part), "a@b.weight@16:32/48");
  for (const char* name : {"a", "a@", "a@1", "a@1:2", "a@1:2/", "a@1:2/x", "a@-1:2/3", "a@1:2/3 ",
                           "a@1:2/99999999999999999999", "a@1 :2/3", "a@:2/3"}) {
    EXPECT_FALSE(parse_part_name(name)) << name;
  }
}

TEST_F(ShardedTensorsTest, PutsTheRowsOfAllFilesTogether) {
  const auto first = rows("m@0:1/4", 0, 1), last = rows("m@3:4/4", 3, 4),
             middle = rows("m@1:3/4", 1, 3), whole = rows("whole", 0, 4);
  const OwnedTensor scalar("s", DType::kF32, {}, std::vector<float>{7});
  const CheckpointReader reader(
      write({{last.view(), scalar.view()}, {middle.view()}, {whole.view(), first.view()}}));
  const ShardedTensors tensors(reader);
  EXPECT_EQ(tensors.names(), (std::vector<std::string>{"m", "s", "whole"}));
  const ShardedTensor& m = tensors.at("m");
  EXPECT_EQ(m.shape, (std::vector<std::int64_t>{4, 2}));
  EXPECT_EQ(m.parts.size(), 3u);
  std::vector<float> values(8), expected(8);
  m.to_float(values);
  to_float(whole.view(), expected);
  EXPECT_EQ(values, expected);
  EXPECT_EQ(m.hash128_hex(), hash128_hex(whole.view().bytes));
  EXPECT_EQ(tensors.at("whole").hash128_hex(), m.hash128_hex());
  std::vector<float> two(4);
  m.copy_rows(1, 3, std::as_writable_bytes(std::span(two)));
  EXPECT_EQ(two, (std::vector<float>{2, 3, 4, 5}));
  std::vector<float> one(1);
  tensors.at("s").to_float(one);
  EXPECT_EQ(one[0], 7);
  expect_error<UsageError>([&] { m.copy_rows(3, 5, std::as_writable_bytes(std::span(two))); },
                           "rows 3 to 5", "[4, 2]");
  expect_error<UsageError>([&] { m.to_float(two); }, "room for 8", "found 4");
  expect_error<CheckpointError>([&] { tensors.at("n"); }, reader.path().string(), "\"n\"");
}

TEST_F(ShardedTensorsTest, AsASourceOfAModel) {
  const auto first = rows("m@0:3/4", 0, 3), last = rows("m@3:4/4", 3, 4),
             moment = rows("optimizer.exp_avg.m@0:3/4", 0, 3),
             rest = rows("optimizer.exp_avg.m@3:4/4", 3, 4);
  const auto source = checkpoint_source(std::make_unique<CheckpointReader>(
      write({{first.view(), moment.view()}, {last.view(), rest.view()}})));
  EXPECT_EQ(source->names(), std::vector<std::string>{"m"});
  EXPECT_EQ(source->shape("m"), (std::vector<std::int64_t>{4, 2}));
  EXPECT_EQ(source->shape("m@0:3/4"), std::nullopt);
  std::vector<float> values(8);
  source->read("m", values);
  EXPECT_EQ(values[7], 7);
}

TEST_F(ShardedTensorsTest, VersionOneIsReadToo) {
  const auto whole = rows("m", 0, 4);
  EXPECT_EQ(ShardedTensors(CheckpointReader(write({{whole.view()}}, 1))).names().size(), 1u);
}

TEST_F(ShardedTensorsTest, PartsMustCoverTheTensorOnce) {
  const auto refused = [&](const std::vector<OwnedTensor>& parts, auto... text) {
    const CheckpointReader reader(write({views_of(parts)}));
    expect_error<CheckpointError>([&] { ShardedTensors tensors(reader); }, reader.path().string(),
                                  text...);
  };
  const auto list = [](auto... tensors) {
    std::vector<OwnedTensor> result;
    (result.push_back(std::move(tensors)), ...);
    return result;
  };
  refused(list(rows("t@0:2/4", 0, 2)), "\"t\"", "rows 2 to 4 are missing");
  refused(list(rows("t@2:4/4", 2, 4)), "part from row 0", "t@2:4/4");
  refused(list(rows("t@0:2/4", 0, 2), rows("t@1:3/4", 1, 3), rows("t@2:4/4", 2, 4)), "from row 2");
  refused(list(rows("t", 0, 2), rows("t@0:2/2", 0, 2)), "\"t\"");
  refused(list(rows("t@0:2/4", 0, 2), rows("t@2:4/5", 2, 4)), "disagree");
  refused(list(rows("t@0:3/3", 0, 2)), "t@0:3/3", "[2, 2]");
  refused(list(rows("t@0:2/9223372036854775807", 0, 2)), "are missing");
}

}  // namespace
}  // namespace fbi::formats
