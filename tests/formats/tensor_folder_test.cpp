#include <gtest/gtest.h>

#include <string>

#include "fbi/core/error.h"
#include "fbi/formats/model_source.h"
#include "fbi/formats/safetensors.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_tensor_folder.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::write_tensor_folder;

class TensorFolders : public testing::Test {
 protected:
  void write_index(const std::string& weight_map) {
    write_file(model_ / "model.safetensors.index.json",
               R"({"metadata":{"total_size":8},"weight_map":)" + weight_map + "}");
  }
  void write_shard(const fs::path& path, const std::string& tensor) {
    const auto values = floats(tensor, {1, 2});
    write_safetensors(path, std::vector{values.view()});
  }
  template <class... Parts>
  void expect_refused(const Parts&... parts) {
    expect_error<DataError>([&] { TensorFolder folder(model_); }, model_.string(), parts...);
  }
  void SetUp() override { fs::create_directory(model_); }

  test::TempDir folder_;
  fs::path model_ = folder_ / "model";
};

TEST_F(TensorFolders, SingleFileRoundTrip) {
  const auto b = floats("b", {1, 2}), a = floats("a", {3});
  write_tensor_folder(folder_ / "new" / "deep", std::vector{b.view(), a.view()});
  const TensorFolder read(folder_ / "new" / "deep");
  EXPECT_EQ(read.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(float_values(read.at("b")), (std::vector<float>{1, 2}));
  EXPECT_EQ(read.find("c"), nullptr);
  EXPECT_EQ(read.path(), folder_ / "new" / "deep");
}

TEST_F(TensorFolders, ContentIsThatOfTheTensorsInWhateverFilesTheyLie) {
  const auto hash = [&](const std::string& name, const std::vector<OwnedTensor>& tensors,
                        std::uint64_t max_shard_bytes = 1 << 20) {
    write_tensor_folder(folder_ / name, views_of(tensors), max_shard_bytes);
    return content_hash(folder_ / name);
  };
  const auto pair = [](const std::string& second, const std::vector<float>& values) {
    std::vector<OwnedTensor> tensors;
    tensors.push_back(floats("a", {1, 2}));
    tensors.push_back(floats(second, values));
    return tensors;
  };
  const std::string one = hash("one", pair("b", {3, 4}));
  EXPECT_EQ(hash("sharded", pair("b", {3, 4}), 8), one);
  EXPECT_NE(hash("value", pair("b", {3, 5})), one);
  EXPECT_NE(hash("name", pair("c", {3, 4})), one);
  EXPECT_NE(hash("shape", pair("b", {3})), one);
}

TEST_F(TensorFolders, ShardsAreCutAtTheLimit) {
  const auto a = floats("a", {1, 2}), b = floats("b", {3}), c = floats("c", {4, 5, 6, 7, 8}),
             d = floats("d", {9});
  const std::vector<TensorView> tensors{a.view(), b.view(), c.view(), d.view()};
  // a + b fit exactly, c is too large for any, d is alone.
  write_tensor_folder(model_, tensors, 12);
  EXPECT_EQ(SafetensorsFile(model_ / "model-00001-of-00003.safetensors").tensors().size(), 2u);
  EXPECT_EQ(SafetensorsFile(model_ / "model-00002-of-00003.safetensors").tensors().size(), 1u);
  EXPECT_EQ(SafetensorsFile(model_ / "model-00003-of-00003.safetensors").tensors().size(), 1u);
  const TensorFolder read(model_);
  for (const auto& tensor : tensors)
    EXPECT_EQ(float_values(read.at(tensor.name)), float_values(tensor));
  EXPECT_THAT(read_file(model_ / "model.safetensors.index.json"),
              testing::HasSubstr("\"total_size\": 36"));
  write_tensor_folder(model_, tensors, 12);  // the same again replaces
  EXPECT_EQ(TensorFolder(model_).names().size(), 4u);
}

TEST_F(TensorFolders, AnotherCutInTheSameFolderIsRefused) {
  const auto a = floats("a", {1, 2}), b = floats("b", {3});
  const std::vector<TensorView> tensors{a.view(), b.view()};
  write_tensor_folder(model_, tensors, 8);
  expect_error<UsageError>([&] { write_tensor_folder(model_, tensors); }, model_.string(),
                           "already holds model");
  EXPECT_EQ(TensorFolder(model_).names().size(), 2u);
}

TEST_F(TensorFolders, WriteRefusals) {
  const auto a = floats("a", {1, 2});
  const std::vector<TensorView> twice{a.view(), a.view()};
  expect_error<UsageError>([&] { write_tensor_folder(model_, twice, 8); }, "\"a\" occurs twice");
  write_file(folder_ / "file", "");
  expect_error<DiskError>([&] { write_tensor_folder(folder_ / "file" / "x", twice); },
                          (folder_ / "file" / "x").string(), "Not a directory");
}

TEST_F(TensorFolders, StreamedTensorsMustFitTheLayout) {
  const auto a = floats("a", {1, 2}), b = floats("b", {3});
  TensorFolderWriter writer(model_, {a.view(), b.view()}, 8);
  EXPECT_EQ(writer.tensor_bytes(), 12u);
  expect_error<UsageError>([&] { writer.write(b.view().bytes); }, model_.string(), "\"a\"",
                           "expected 8 bytes for F32 [2], found 4");
  writer.write(a.view().bytes);
  expect_error<UsageError>([&] { writer.finish(); }, "expected 2 tensors", "found 1");
  writer.write(b.view().bytes);
  expect_error<UsageError>([&] { writer.write(b.view().bytes); }, "more tensors", "the 2");
  writer.finish();
  EXPECT_EQ(TensorFolder(model_).names().size(), 2u);
}

TEST_F(TensorFolders, EmptyModel) {
  write_tensor_folder(model_, {});
  EXPECT_TRUE(TensorFolder(model_).names().empty());
}

TEST_F(TensorFolders, MissingTensorSuggestsTheNearest) {
  write_shard(model_ / "model.safetensors", "model.norm.weight");
  const TensorFolder read(model_);
  expect_error<DataError>([&] { read.at("model.norm.wieght"); }, model_.string(),
                          "\"model.norm.wieght\"", "nearest name is \"model.norm.weight\"");
  expect_error<DataError>([&] { read.at("q"); }, "no tensor \"q\"");
}

TEST_F(TensorFolders, NothingThere) {
  expect_refused("expected model.safetensors, pytorch_model.bin or one of them with .index.json");
  expect_error<DataError>([&] { TensorFolder folder(folder_ / "absent"); }, "absent");
}

TEST_F(TensorFolders, IndexThatDoesNotMatch) {
  write_shard(model_ / "1.safetensors", "a");
  write_shard(model_ / "2.safetensors", "b");
  write_index(R"({"a":"1.safetensors","b":"2.safetensors"})");
  EXPECT_EQ(TensorFolder(model_).names().size(), 2u);
  write_index(R"({"a":"1.safetensors","b":"1.safetensors"})");
  expect_refused("\"b\" is not in \"1.safetensors\"");
  write_index(R"({"a":"2.safetensors","b":"1.safetensors"})");
  expect_refused("\"a\"", "expected in \"2.safetensors\", found in \"1.safetensors\"");
  write_index(R"({"a":"1.safetensors","c":"2.safetensors"})");
  expect_refused("\"b\"", "expected in no file, found in \"2.safetensors\"");
  write_index(R"({"a":"1.safetensors","b":"3.safetensors"})");
  expect_refused("3.safetensors", "No such file");
  write_shard(model_ / "2.safetensors", "a");
  write_index(R"({"a":"1.safetensors","b":"2.safetensors"})");
  expect_refused("\"a\" is in another file");
}

TEST_F(TensorFolders, BrokenIndex) {
  write_index("5");
  expect_refused("index.json", "expected an object with an object weight_map");
  write_index(R"({"a":5})");
  expect_refused("expected a file name for \"a\"");
  write_index(R"({"a":"1","a":"2"})");
  expect_refused("key \"a\" occurs twice");
  write_index("{");
  expect_refused("not valid JSON");
}

TEST_F(TensorFolders, ShardsOutsideTheFolder) {
  write_shard(folder_ / "outside.safetensors", "a");
  for (const std::string& file :
       {std::string("../outside.safetensors"), (folder_ / "outside.safetensors").string(),
        std::string("./../outside.safetensors"), std::string("")}) {
    write_index("{\"a\":\"" + file + "\"}");
    expect_refused("lies outside the folder");
  }
  write_index(R"({"a":"1\u0000.safetensors"})");
  expect_refused("lies outside the folder");
  fs::create_symlink(folder_ / "outside.safetensors", model_ / "link.safetensors");
  write_index(R"({"a":"link.safetensors"})");
  expect_refused("is a link out of the folder", "outside.safetensors");
  // A folder whose name merely begins alike is outside too.
  fs::create_directory(folder_ / "model-b");
  write_shard(folder_ / "model-b" / "1.safetensors", "a");
  fs::remove(model_ / "link.safetensors");
  fs::create_symlink(folder_ / "model-b" / "1.safetensors", model_ / "link.safetensors");
  expect_refused("is a link out of the folder");
}

TEST_F(TensorFolders, LinksInsideAndTheHubCacheAreFine) {
  fs::create_directory(model_ / "parts");
  write_shard(model_ / "parts" / "1.safetensors", "a");
  fs::create_symlink("parts/1.safetensors", model_ / "link.safetensors");
  write_index(R"({"a":"link.safetensors"})");
  EXPECT_NE(TensorFolder(model_).find("a"), nullptr);

  const fs::path snapshot = folder_ / "models--x" / "snapshots" / "abc";
  fs::create_directories(snapshot);
  fs::create_directories(folder_ / "models--x" / "blobs");
  write_shard(folder_ / "models--x" / "blobs" / "0123", "a");
  fs::create_symlink("../../blobs/0123", snapshot / "1.safetensors");
  write_file(snapshot / "model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors"}})");
  EXPECT_NE(TensorFolder(snapshot).find("a"), nullptr);
}

}  // namespace
}  // namespace fbi::formats
