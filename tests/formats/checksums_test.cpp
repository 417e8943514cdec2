#include "fbi/formats/checksums.h"

#include <gtest/gtest.h>

#include "fbi/core/error.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

class ChecksumsOfAFolder : public testing::Test {
 protected:
  ChecksumsOfAFolder() {
    for (const char* name : {"README.md", "config.json", "model-00001-of-00002.safetensors",
                             "model.safetensors.index.json", "tokenizer.model"}) {
      test::write_text(folder_ / name, concat("content of ", name));
    }
    test::write_text(folder_ / "empty", "");
    write_checksums(folder_.path());
  }
  void write(const std::string& text) { test::write_text(folder_ / kChecksumsFile, text); }
  template <class... Parts>
  void expect_refused(const Parts&... parts) {
    expect_error<DataError>([&] { Checksums checksums(folder_.path()); },
                            (folder_ / kChecksumsFile).string(), parts...);
  }

  test::TempDir folder_;
};

TEST_F(ChecksumsOfAFolder, AreThoseOfXxhsum) {
  test::write_text(folder_ / "abc", "abc");
  fs::remove(folder_ / kChecksumsFile);
  write_checksums(folder_.path());
  EXPECT_THAT(read_file(folder_ / kChecksumsFile),
              testing::HasSubstr("\"bytes\": 3,\n      \"file\": \"abc\",\n      \"xxh3_128\": "
                                 "\"06b05ab6733a618578af5f94892f3950\""));
}

TEST_F(ChecksumsOfAFolder, EveryListedFileIsChecked) {
  const Checksums checksums(folder_.path());
  checksums.check_model();
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename();
    checksums.check(name);
    if (name == kChecksumsFile || name == "empty") continue;
    flip_bit(entry.path(), 3);
    expect_error<DataError>([&] { checksums.check(name); }, entry.path().string(),
                            "has been altered", "expected XXH3 \"", "found ",
                            (folder_ / kChecksumsFile).string());
    flip_bit(entry.path(), 3);
  }
  test::write_text(folder_ / "empty", "!");
  expect_error<DataError>([&] { checksums.check("empty"); }, "expected 0 bytes, found 1");
  checksums.check("of another name");
}

TEST_F(ChecksumsOfAFolder, AModelIsItsConfigurationAndItsTensors) {
  const Checksums checksums(folder_.path());
  for (const char* name :
       {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"}) {
    const std::string content = read_file(folder_ / name);
    fs::resize_file(folder_ / name, content.size() - 1);
    expect_error<DataError>([&] { checksums.check_model(); }, name,
                            concat("expected ", content.size(), " bytes, found "));
    fs::remove(folder_ / name);
    expect_error<DataError>([&] { checksums.check_model(); }, name, "No such file");
    test::write_text(folder_ / name, content);
  }
  for (const char* name : {"README.md", "tokenizer.model", "empty"}) fs::remove(folder_ / name);
  checksums.check_model();
}

TEST_F(ChecksumsOfAFolder, AreNotNeeded) {
  fs::remove(folder_ / kChecksumsFile);
  flip_bit(folder_ / "config.json", 3);
  const Checksums checksums(folder_.path());
  checksums.check_model();
  checksums.check("config.json");
  Checksums(folder_ / "absent").check_model();
}

TEST_F(ChecksumsOfAFolder, FilesThatAreNoneAreRefused) {
  const std::string whole = read_file(folder_ / kChecksumsFile);
  for (std::size_t bytes = 0; bytes < whole.size() - 1; bytes += 11) {
    write(whole.substr(0, bytes));
    expect_refused("not valid JSON");
  }
  write("[]");
  expect_refused("expected an object");
  write("{}");
  expect_refused("field files: expected an array");
  write(R"({"files": ["config.json"]})");
  expect_refused("field files: expected objects");
  write(R"({"files": [{"file": "config.json", "xxh3_128": ""}]})");
  expect_refused("field bytes is missing");
  write(R"({"files": [{"file": "config.json", "bytes": -1, "xxh3_128": ""}]})");
  expect_refused("field bytes", "whole number");
  write(R"({"files": [{"file": "config.json", "bytes": 1, "xxh3_128": 5}]})");
  expect_refused("field xxh3_128", "a string");
  for (const char* file : {"../config.json", "/etc/passwd", "", "..", ".", "sub/x"}) {
    write(concat(R"({"files": [{"file": ")", file, R"(", "bytes": 1, "xxh3_128": ""}]})"));
    expect_refused("expected a plain file name");
  }
}

}  // namespace
}  // namespace fbi::formats
