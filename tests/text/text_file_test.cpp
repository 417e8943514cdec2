#include "fbi/text/text_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <fstream>
#include <latch>
#include <random>
#include <thread>

#include "fbi/core/error.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::text {
namespace {

using test::expect_error;

std::string gzip(std::string_view plain) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, plain.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(std::string_view plain) {
  std::string packed(ZSTD_compressBound(plain.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 3));
  return packed;
}

/// Half of it can be packed, so that packed and plain bytes end at different places.
std::string sample(std::size_t bytes) {
  std::string text(bytes, 'a');
  std::mt19937 random(1);
  for (std::size_t k = 0; k < bytes; k += 2) text[k] = static_cast<char>(random());
  return text;
}

struct Packing {
  const char* extension;
  std::string (*pack)(std::string_view);
};
void PrintTo(const Packing& packing, std::ostream* out) {
  *out << packing.extension + 1;
}

class PackedText : public ::testing::TestWithParam<Packing> {
 protected:
  std::filesystem::path write(const std::string& bytes) {
    const auto path = folder_ / ("a" + std::string(GetParam().extension));
    test::write_text(path, bytes);
    return path;
  }
  std::string packed(std::string_view plain) { return GetParam().pack(plain); }

  test::TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(, PackedText,
                         ::testing::Values(Packing{".gz", gzip}, Packing{".zst", zstd}),
                         ::testing::PrintToStringParamName());

TEST_P(PackedText, IsUnpackedInPiecesOfAnySize) {
  for (const std::size_t size : {0, 1, 1000, 256 << 10, 3'000'001}) {
    const std::string plain = sample(size);
    const auto path = write(packed(plain));
    EXPECT_EQ(read_text_file(path, size), plain);
    for (const std::size_t step : {777, 1 << 20}) {
      TextFile file(path);
      std::string text;
      while (file.append(text, step)) ASSERT_EQ(text.size() % step, 0u);
      EXPECT_EQ(text, plain) << size << " bytes in steps of " << step;
      EXPECT_EQ(file.position(), file.size());
      EXPECT_FALSE(file.append(text, step));
    }
  }
}

TEST_P(PackedText, PartsThatFollowOneAnotherAreOneText) {
  const std::string plain = sample(300'000);
  EXPECT_EQ(read_text_file(write(packed(plain) + packed("") + packed("end"))), plain + "end");
}

TEST(TextFile, FilesOfPzstdBeginWithAFrameToSkip) {
  const test::TempDir folder;
  const std::string skipped("\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
  test::write_text(folder / "a.zst", skipped + zstd("one ") + skipped + zstd("two"));
  EXPECT_EQ(read_text_file(folder / "a.zst"), "one two");
}

TEST(TextFile, ZerosBehindGzipAreSkipped) {
  const test::TempDir folder;
  test::write_text(folder / "a.gz", gzip("one ") + gzip("two") + std::string(300'000, '\0'));
  EXPECT_EQ(read_text_file(folder / "a.gz"), "one two");
}

TEST_P(PackedText, WhatWasCutOffIsAnErrorAtAnyPlace) {
  const std::string whole = packed(sample(400'000));
  for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{5}}) {
    const auto path = write(whole.substr(0, size));
    expect_error<DataError>([&] { read_text_file(path); }, path.string(), "ends in the middle",
                            concat("after ", size, " bytes"));
  }
}

TEST_P(PackedText, BrokenOnesAreNamedWithThePlace) {
  std::string bytes = packed(sample(400'000));
  bytes += "no part";
  const auto path = write(bytes);
  expect_error<DataError>([&] { read_text_file(path); }, path.string(), "is broken near byte");
}

TEST_P(PackedText, ItsNameIsThatOfTheText) {
  EXPECT_EQ(unpacked_name(concat("folder/c4.json", GetParam().extension)), "c4.json");
}

TEST(TextFile, ReadsPlainTextAsItIs) {
  const test::TempDir folder;
  const std::string plain = sample(600'000);
  test::write_text(folder / "a.gz.txt", plain);
  EXPECT_EQ(read_text_file(folder / "a.gz.txt"), plain);
  EXPECT_EQ(beginning_of_text_file(folder / "a.gz.txt"), plain);
  EXPECT_EQ(unpacked_name(folder / "a.gz.txt"), "a.gz.txt");
  expect_error<DataError>([&] { read_text_file(folder / "a.gz.txt", 1000); }, "a.gz.txt",
                          "at most 1000 bytes");
  expect_error<DataError>([&] { read_text_file(folder / "absent"); }, "absent");
  expect_error<DataError>([&] { read_text_file(folder.path()); }, "directory");
}

TEST(TextFile, ReadsPipes) {
  const test::TempDir folder;
  const auto pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string plain = sample(300'000);
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);  // the writer waits for one
  std::latch opened(1);
  std::thread writer([&] {
    std::ofstream out(pipe, std::ios::binary);
    opened.count_down();
    out << gzip(plain);
  });
  opened.wait();
  EXPECT_EQ(read_text_file(pipe), plain);
  writer.join();
  close(reader);
}

}  // namespace
}  // namespace fbi::text
