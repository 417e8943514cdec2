#include "fbi/formats/checkpoint_reader.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/newest_checkpoint.h"
#include "support/temp_dir.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

void replace_in(const fs::path& path, const std::string& old_text, const std::string& new_text) {
  std::string text = read_file(path);
  const auto at = text.find(old_text);
  ASSERT_NE(at, std::string::npos) << old_text;
  write_file(path, text.replace(at, old_text.size(), new_text));
}

class Checkpoints : public testing::Test {
 protected:
  FileChecksum write_shard(const fs::path& folder, const std::string& file,
                           const std::vector<OwnedTensor>& tensors) {
    const WrittenFile written = write_safetensors(folder / file, views_of(tensors));
    return {file, written.bytes, written.xxh3_128};
  }
  static CheckpointManifest manifest_of(std::int64_t step, std::vector<FileChecksum> shards) {
    CheckpointManifest manifest;
    manifest.step = step;
    manifest.config_hash = "c0ffee";
    manifest.shards = std::move(shards);
    manifest.state_json = R"({"updates":7,"lr":0.1,"big":18446744073709551615})";
    return manifest;
  }
  /// Two shards; the tensor "a" holds the step.
  fs::path write_checkpoint(std::int64_t step) {
    const fs::path folder = folder_ / checkpoint_folder_name(step);
    fs::create_directory(folder);
    std::vector<OwnedTensor> first, second;
    first.push_back(floats("a", {static_cast<float>(step)}));
    second.push_back(floats("b", {1, 2}));
    const auto manifest = manifest_of(step, {write_shard(folder, "1.safetensors", first),
                                             write_shard(folder, "2.safetensors", second)});
    write_file(folder / "manifest.json", manifest_to_json(manifest));
    return folder;
  }
  template <class... Parts>
  void expect_refused(const fs::path& folder, const Parts&... parts) {
    expect_error<CheckpointError>([&] { CheckpointReader reader(folder); }, folder.string(),
                                  parts...);
  }

  test::TempDir folder_;
};

TEST_F(Checkpoints, RoundTrip) {
  const CheckpointReader reader(write_checkpoint(1234));
  EXPECT_EQ(reader.path().filename(), "step-00001234");
  ASSERT_EQ(reader.tensors().size(), 2u);
  EXPECT_EQ(float_values(*reader.tensors().at("a")), (std::vector<float>{1234}));
  EXPECT_EQ(float_values(*reader.tensors().at("b")), (std::vector<float>{1, 2}));
  EXPECT_EQ(reader.manifest().step, 1234);
  EXPECT_EQ(reader.manifest().config_hash, "c0ffee");
  EXPECT_EQ(reader.manifest().shards.size(), 2u);
  EXPECT_EQ(reader.manifest().state_json, R"({"big":18446744073709551615,"lr":0.1,"updates":7})");
}

TEST_F(Checkpoints, FolderNames) {
  EXPECT_EQ(checkpoint_folder_name(0), "step-00000000");
  EXPECT_EQ(checkpoint_folder_name(123456789), "step-123456789");
  expect_error<UsageError>([] { checkpoint_folder_name(-1); }, "found -1");
}

TEST_F(Checkpoints, ManifestNeedsAState) {
  auto manifest = manifest_of(1, {});
  manifest.state_json = "{";
  expect_error<UsageError>([&] { manifest_to_json(manifest); }, "state_json");
  manifest.state_json = "[]";
  expect_error<UsageError>([&] { manifest_to_json(manifest); }, "expected a JSON object");
}

TEST_F(Checkpoints, ListsCommittedFoldersNewestFirst) {
  for (const char* name : {"step-00000002", "step-00000010", "step-123456789", ".tmp-step-00000011",
                           "step-12", "step-00000012x", "step--0000001", "step-", "other"}) {
    fs::create_directory(folder_ / name);
  }
  std::ofstream(folder_ / "step-00000099") << "a file";
  EXPECT_EQ(list_checkpoints(folder_.path()),
            (std::vector<fs::path>{folder_ / "step-123456789", folder_ / "step-00000010",
                                   folder_ / "step-00000002"}));
  EXPECT_TRUE(list_checkpoints(folder_ / "absent").empty());
  expect_error<CheckpointError>([&] { list_checkpoints(folder_ / "step-00000099"); },
                                "step-00000099", "Not a directory");
}

TEST_F(Checkpoints, TruncatedShard) {
  const fs::path folder = write_checkpoint(1), shard = folder / "2.safetensors";
  const auto bytes = fs::file_size(shard);
  fs::resize_file(shard, bytes - 1);
  expect_refused(folder, shard.string(), concat("expected ", bytes, " bytes, found ", bytes - 1));
  fs::remove(shard);
  expect_refused(folder, shard.string(), "No such file");
}

TEST_F(Checkpoints, AlteredShard) {
  const fs::path folder = write_checkpoint(1), shard = folder / "2.safetensors";
  const std::string expected = CheckpointReader(folder).manifest().shards[1].xxh3_128;
  const std::uint64_t last = fs::file_size(shard) - 1;
  flip_bit(shard, last);
  expect_refused(folder, shard.string(), "altered", "expected XXH3 \"" + expected, "found ");
  EXPECT_NO_THROW(CheckpointReader(folder, false)) << "payload only the hash can see";
  flip_bit(shard, last);
  flip_bit(shard, 8);
  expect_error<CheckpointError>([&] { CheckpointReader(folder, false); }, shard.string(), "'{'");
}

TEST_F(Checkpoints, AlteredManifest) {
  const fs::path folder = write_checkpoint(1), manifest = folder / "manifest.json";
  const std::string whole = read_file(manifest);
  const auto refused = [&](const std::string& old_text, const std::string& new_text,
                           auto... parts) {
    replace_in(manifest, old_text, new_text);
    expect_refused(folder, "manifest.json", parts...);
    write_file(manifest, whole);
  };
  refused("\"updates\": 7", "\"updates\": 8", "has been altered", "expected XXH3");
  refused("\"config_hash\": \"c0ffee\"", "\"config_hash\": \"c0ffe\"", "has been altered");
  refused("\"format_version\": 2", "\"format_version\": 3",
          "expected format version 1 to 2, found 3");
  refused("\"format_version\": 2", "\"format_version\": 0",
          "expected format version 1 to 2, found 0");
  refused("\"format_version\": 2", "\"format_version\": -1", "format_version", "whole number");
  refused("\"format_version\"", "\"format\"", "field format_version is missing");
  refused("manifest_xxh3_128", "manifest", "field manifest_xxh3_128 is missing");
  refused("{", "[", "not valid JSON");
  // Without its last line break it is still whole.
  for (std::size_t bytes = whole.size() - 1; bytes-- > 0;) {
    fs::resize_file(manifest, bytes);
    EXPECT_THROW(CheckpointReader reader(folder), CheckpointError) << bytes;
  }
  fs::remove(manifest);
  expect_refused(folder, "manifest.json", "No such file");
}

TEST_F(Checkpoints, ManifestThatAFaultyProgramWrote) {
  const fs::path folder = folder_ / "copy";
  fs::create_directory(folder);
  std::vector<OwnedTensor> tensors;
  tensors.push_back(floats("a", {1}));
  const auto shard = write_shard(folder, "1.safetensors", tensors);
  const auto refused = [&](std::vector<FileChecksum> shards, auto... parts) {
    write_file(folder / "manifest.json", manifest_to_json(manifest_of(5, std::move(shards))));
    expect_refused(folder, parts...);
  };
  for (const char* file : {"../copy/1.safetensors", "/etc/passwd", "", "..", ".", "sub/x"}) {
    refused({{file, shard.bytes, shard.xxh3_128}}, "expected a plain file name");
  }
  refused({shard, shard}, "\"a\" is in another shard too");
  auto manifest = manifest_of(-1, {});
  write_file(folder / "manifest.json", manifest_to_json(manifest));
  expect_refused(folder, "field step", "expected a whole number");
}

TEST_F(Checkpoints, FolderNameAndStepMustAgree) {
  const fs::path folder = write_checkpoint(1);
  fs::rename(folder, folder_ / "step-00000002");
  expect_refused(folder_ / "step-00000002", "expected step 2", "found 1");
  fs::rename(folder_ / "step-00000002", folder_ / "best");
  EXPECT_EQ(CheckpointReader(folder_ / "best").manifest().step, 1);
}

TEST_F(Checkpoints, TheNewestIsTheFirstOfTheList) {
  EXPECT_TRUE(list_checkpoints(folder_.path()).empty());
  EXPECT_TRUE(list_checkpoints(folder_ / "absent").empty());
  const fs::path first = write_checkpoint(1), second = write_checkpoint(2);
  fs::rename(write_checkpoint(3), folder_ / ".tmp-step-00000003");
  EXPECT_EQ(list_checkpoints(folder_.path()), (std::vector<fs::path>{second, first}));
}

TEST_F(Checkpoints, OpensTheOneThatAPathIsOrWhoseRunItIs) {
  const fs::path checkpoint = write_checkpoint(1), run = folder_ / "run";
  EXPECT_EQ(open_checkpoint_of(checkpoint)->path(), checkpoint);
  EXPECT_EQ(open_checkpoint_of(folder_ / "absent"), nullptr);
  EXPECT_EQ(open_checkpoint_of(checkpoint / "1.safetensors"), nullptr);
  fs::create_directory(run);
  write_file(run / "config.json", "{}");  // of a model folder
  EXPECT_EQ(open_checkpoint_of(run), nullptr);

  const auto expect_none_yet = [&] {
    expect_error<CheckpointError>([&] { open_checkpoint_of(run); },
                                  run.string() + ": the run has no checkpoint yet");
  };
  write_file(run / "environment.json", "{}");
  expect_none_yet();
  fs::remove(run / "environment.json");
  fs::create_directory(run / "checkpoints");
  expect_none_yet();
  fs::rename(checkpoint, run / "checkpoints" / checkpoint_folder_name(1));
  EXPECT_EQ(open_checkpoint_of(run)->manifest().step, 1);
}

TEST_F(Checkpoints, FallsBackToTheOneBeforeAndSaysSo) {
  const auto log_file = folder_ / "log";
  const log::FileSink sink(log_file.string());
  write_checkpoint(1);
  const fs::path broken = write_checkpoint(2) / "1.safetensors";
  flip_bit(broken, fs::file_size(broken) - 1);
  fs::remove(write_checkpoint(3) / "manifest.json");
  const auto reader = test::open_newest_checkpoint(folder_.path());
  EXPECT_EQ(reader->manifest().step, 1);
  EXPECT_EQ(float_values(*reader->tensors().at("a")), (std::vector<float>{1}));
  const std::string text = read_file(log_file);
  EXPECT_THAT(text, testing::HasSubstr("warning"));
  EXPECT_THAT(text, testing::HasSubstr(broken.string()));
  EXPECT_THAT(text, testing::HasSubstr("step-00000003"));

  fs::remove(folder_ / "step-00000001" / "1.safetensors");
  expect_error<CheckpointError>([&] { test::open_newest_checkpoint(folder_.path()); },
                                "none of the 3 checkpoints", folder_.path().string(),
                                "step-00000003");
  log::reset();
}

}  // namespace
}  // namespace fbi::formats
