#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::formats {
namespace {

using test::expect_error;

class SafetensorsReader : public testing::Test {
 protected:
  /// Writes a file from its parts; the length field may lie.
  void write(const std::string& header, std::size_t buffer_bytes, std::int64_t length_error = 0) {
    const std::uint64_t length = header.size() + static_cast<std::uint64_t>(length_error);
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    write_file(path_, text + header + std::string(buffer_bytes, '\1'));
  }
  template <class... Parts>
  void expect_refused(const Parts&... parts) {
    expect_error<DataError>([&] { SafetensorsFile file(path_); }, path_.string(), parts...);
  }
  /// Header and buffer of a single tensor "w".
  template <class... Parts>
  void refuse_tensor(const std::string& entry, std::size_t buffer_bytes, const Parts&... parts) {
    SCOPED_TRACE(entry);
    write("{\"w\":" + entry + "}", buffer_bytes);
    expect_refused("\"w\"", parts...);
  }

  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "x.safetensors";
};

TEST_F(SafetensorsReader, ReadsInFileOrderWithAnyHeaderOrderAndPadding) {
  write(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},)"
        R"("__metadata__":{"format":"pt","note":"é"},)"
        R"("empty":{"dtype":"F32","shape":[0,5],"data_offsets":[4,4]},)"
        R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}    )",
        7);
  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "scalar");
  EXPECT_EQ(file.tensors()[1].name, "empty");
  EXPECT_EQ(file.tensors()[2].name, "b");
  EXPECT_EQ(file.tensors()[0].numel(), 1);
  EXPECT_EQ(file.tensors()[1].numel(), 0);
  EXPECT_EQ(file.tensors()[2].shape, (std::vector<std::int64_t>{3}));
  EXPECT_EQ(file.tensors()[2].bytes.size(), 3u);
  EXPECT_EQ(file.path(), path_);
}

TEST_F(SafetensorsReader, MinimalFile) {
  write("{}", 0);
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
}

TEST_F(SafetensorsReader, SurvivesAMove) {
  write(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2);
  SafetensorsFile first(path_);
  const SafetensorsFile second(std::move(first));
  EXPECT_EQ(static_cast<char>(second.tensors()[0].bytes[1]), '\1');
}

TEST_F(SafetensorsReader, LengthsOutOfBounds) {
  write_file(path_, "");
  expect_refused("expected at least 8 bytes, found 0");
  write_file(path_, "1234567");
  expect_refused("expected at least 8 bytes, found 7");
  write("{}", 0, 1);
  expect_refused("header of 3 bytes in a file of 10");
  write("{}", 0, -3);
  expect_refused("at most 100000000 bytes, found 18446744073709551615");
  write("{}", 0, 100'000'000 - 1);
  expect_refused("at most 100000000 bytes, found 100000001");
  write("{}", 0, 100'000'000 - 2);
  expect_refused("header of 100000000 bytes in a file of 10");
  write("{}", 0, -2);
  expect_refused("begins with '{'");
  expect_error<DataError>([&] { SafetensorsFile file(folder_ / "absent"); }, "No such file");
}

TEST_F(SafetensorsReader, BrokenJson) {
  write("{", 0);
  expect_refused("not valid JSON");
  write("{}x", 0);
  expect_refused("not valid JSON");
  write(" {}", 0);
  expect_refused("begins with '{'");
  write(R"({"w":1})", 0);
  expect_refused("\"w\"", "expected an object with dtype, shape and data_offsets");
  write("{\"\xff\":1}", 0);
  expect_refused("not valid JSON");
  write(R"({"a":)" + std::string(40, '[') + std::string(40, ']') + "}", 0);
  expect_refused("nested deeper than 32");
  // Deep enough to exhaust a recursive parser's stack.
  write(R"({"a":)" + std::string(3'000'000, '['), 0);
  expect_refused("nested deeper than 32");
}

TEST_F(SafetensorsReader, DuplicateKeys) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  write("{\"w\":" + entry + ",\"w\":" + entry + "}", 1);
  expect_refused("key \"w\" occurs twice");
  write(R"({"w":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", 1);
  expect_refused("key \"shape\" occurs twice");
  write("{\"w\":" + entry + R"(,"\u0077":)" + entry + "}", 1);
  expect_refused("key \"w\" occurs twice");
}

TEST_F(SafetensorsReader, BrokenMetadata) {
  write(R"({"__metadata__":[]})", 0);
  expect_refused("__metadata__", "expected an object of strings");
  write(R"({"__metadata__":{"step":5}})", 0);
  expect_refused("__metadata__", "expected a string for \"step\"");
}

TEST_F(SafetensorsReader, BrokenFields) {
  refuse_tensor(R"({"dtype":"U8","shape":[1]})", 1, "expected an object with");
  refuse_tensor(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1})", 1,
                "expected an object with");
  refuse_tensor(R"({"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]})", 1, "F8_E4M3",
                "not supported");
  refuse_tensor(R"({"dtype":5,"shape":[1],"data_offsets":[0,1]})", 1, "not supported");
  refuse_tensor(R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", 1,
                "expected an array as shape");
  for (const char* extent :
       {"-1", "1.0", "1e3", "\"1\"", "null", "9223372036854775808", "18446744073709551617"}) {
    refuse_tensor(concat(R"({"dtype":"U8","shape":[)", extent, R"(],"data_offsets":[0,1]})"), 1,
                  "expected whole numbers from 0 to 9223372036854775807");
  }
  for (const char* offsets : {"0", "[0]", "[0,1,2]", "[-1,0]", "[0,1.0]", "[\"0\",\"1\"]"}) {
    refuse_tensor(concat(R"({"dtype":"U8","shape":[1],"data_offsets":)", offsets, "}"), 1,
                  "expected two whole numbers");
  }
}

TEST_F(SafetensorsReader, OverflowingShapes) {
  // 2^32 * 2^32 * 4 is 0 in 64 bits: the classic way past a size check.
  refuse_tensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0,
                "more bytes than a file can have");
  refuse_tensor(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", 0,
                "more bytes than a file can have");
  refuse_tensor(R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})", 0,
                "more bytes than a file can have");
}

TEST_F(SafetensorsReader, OffsetsOutOfBounds) {
  refuse_tensor(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})", 1,
                "data_offsets [0,2] outside the 1 bytes");
  refuse_tensor(R"({"dtype":"U8","shape":[2],"data_offsets":[2,0]})", 2, "outside");
  refuse_tensor(R"({"dtype":"U8","shape":[2],"data_offsets":[18446744073709551615,1]})", 2,
                "outside");
  refuse_tensor(R"({"dtype":"U8","shape":[2],"data_offsets":[0,18446744073709551615]})", 2,
                "outside");
  refuse_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,7]})", 7,
                "expected 8 bytes for F32 [2], found 7");
}

TEST_F(SafetensorsReader, OverlapsHolesAndLeftOverBytes) {
  const auto two = [](const char* a, const char* b) {
    return concat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", a,
                  R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", b, "}}");
  };
  write(two("[0,4]", "[3,7]"), 8);
  expect_refused("\"b\"", "expected data_offsets to begin at 4, found 3", "overlap");
  write(two("[0,4]", "[0,4]"), 4);
  expect_refused("overlap");
  write(two("[0,4]", "[5,9]"), 9);
  expect_refused("\"b\"", "expected data_offsets to begin at 4, found 5", "hole");
  write(two("[1,5]", "[5,9]"), 9);
  expect_refused("\"a\"", "expected data_offsets to begin at 0, found 1", "hole");
  write(two("[4,8]", "[0,4]"), 9);
  expect_refused("expected 8 bytes of tensors, found 9");
  write(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
        R"("e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
        4);
  expect_refused("\"e\"", "overlap");
}

TEST_F(SafetensorsReader, HostileNamesArePrintedHarmlessly) {
  write(R"({"\u001b[2J)" + std::string(5000, 'x') + R"(":1})", 0);
  const std::string message =
      expect_error<DataError>([&] { SafetensorsFile file(path_); }, "\\u001b[2J");
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_LT(message.size(), 1000u);
}

TEST_F(SafetensorsReader, EveryTruncationIsRefused) {
  write(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 16);
  for (auto bytes = std::filesystem::file_size(path_); bytes-- > 0;) {
    std::filesystem::resize_file(path_, bytes);
    EXPECT_THROW(SafetensorsFile file(path_), DataError) << bytes;
  }
}

}  // namespace
}  // namespace fbi::formats
