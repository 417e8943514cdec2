#include "fbi/formats/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::formats {
namespace {

using test::expect_error;

class Gguf : public testing::Test {
 protected:
  std::string write() {
    GgufWriter writer(path_, metadata_, {gguf(a_.view()), gguf(b_.view())});
    writer.write(a_.view().bytes);
    writer.write(b_.view().bytes);
    written_ = writer.finish();
    return read_file(path_);
  }
  template <class... Parts>
  void refused(const std::string& content, const Parts&... parts) {
    test::write_text(path_, content);
    expect_error<DataError>([&] { GgufFile file(path_); }, path_.string(), parts...);
  }

  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "model.gguf";
  GgufMetadata metadata_ = {{"u", std::uint32_t{7}},
                            {"f", 0.5f},
                            {"b", true},
                            {"s", std::string("text")},
                            {"i32s", std::vector<std::int32_t>{-1, 2}},
                            {"f32s", std::vector<float>{}},
                            {"texts", std::vector<std::string>{"", "▁a"}}};
  static GgufTensor gguf(const TensorView& view) {
    return {view.name, gguf_type(view.dtype), view.shape, view.bytes};
  }
  OwnedTensor a_{"a.weight", DType::kF16, {2, 3}, std::vector<std::uint16_t>{1, 2, 3, 4, 5, 6}};
  OwnedTensor b_{"b.weight", DType::kF32, {1}, std::vector<float>{2.5}};
  WrittenFile written_;
};

TEST_F(Gguf, RoundTrip) {
  const std::string content = write();
  EXPECT_EQ(written_.bytes, content.size());
  EXPECT_EQ(content.substr(0, 8), std::string("GGUF\3\0\0\0", 8));
  const GgufFile file(path_);
  EXPECT_EQ(file.metadata().size(), metadata_.size());
  for (const auto& [key, value] : metadata_) EXPECT_EQ(file.metadata().at(key), value) << key;
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a.weight");
  EXPECT_EQ(file.tensors()[0].type, GgufType::kF16);
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_TRUE(std::ranges::equal(file.tensors()[0].bytes, a_.view().bytes));
  std::vector<float> value(1);
  to_float(file.tensors()[1], value);
  EXPECT_EQ(value, std::vector<float>{2.5});
  // Extents stand fastest first; tensors begin at multiples of 32.
  const auto name = content.find("a.weight") + 8;
  EXPECT_EQ(content.substr(name, 20), std::string("\2\0\0\0\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 20));
  EXPECT_EQ(content.size() % 32, 0u);
}

TEST_F(Gguf, DamagedFiles) {
  const std::string whole = write();
  for (std::size_t bytes = 0; bytes + 31 < whole.size(); ++bytes) {  // the last bytes are padding
    test::write_text(path_, whole.substr(0, bytes));
    EXPECT_THROW(GgufFile file(path_), DataError) << bytes;
  }
  const auto changed = [&](std::size_t at, std::string_view text) {
    return std::string(whole).replace(at, text.size(), text);
  };
  refused(changed(0, "GGML"), "not a GGUF file");
  refused(changed(4, "\2"), "expected version 3, found 2");
  refused(changed(8, "\xff\xff\xff\xff\xff\xff\xff\x7f"), "has 0 dimensions");
  refused(changed(16, "\xff\xff\xff\xff\xff\xff\xff\x7f"), "model.gguf");
  const auto info = whole.find("a.weight") + 8;
  refused(changed(info, "\5"), "has 5 dimensions");
  refused(changed(info + 11, "\1"), "an extent of");
  refused(changed(info + 12, std::string_view("\0", 1)), "an extent of 0");
  refused(changed(info + 4, "\xff\xff\xff\x7f"), "lies outside");
  refused(changed(info + 20, "\x28"), "type 40 is not read");
  refused(changed(info + 20, "\x29"), "a row of Q1_0 has 3 weights, no multiple of 128");
  refused(changed(info, std::string_view("\0", 1)), "has 0 dimensions");
  refused(changed(info + 24, "\x20"), "expected offset 0, found 32");
  refused(changed(whole.find("b.weight"), "a"), "\"a.weight\" occurs twice");
  refused(changed(whole.find("u"), "f"), "\"f\" occurs twice");
}

TEST_F(Gguf, WhatIsWrittenMustFitTheLayout) {
  GgufWriter writer(path_, {}, {gguf(a_.view())});
  expect_error<UsageError>([&] { writer.write(b_.view().bytes); }, "expected 12 bytes", "found 4");
  expect_error<UsageError>([&] { writer.finish(); }, "expected 1 tensors, found 0");
  writer.write(a_.view().bytes);
  expect_error<UsageError>([&] { writer.write(a_.view().bytes); }, "tensor 1 of 1");
  expect_error<UsageError>([] { gguf_type(DType::kBF16); }, "found BF16");
  expect_error<UsageError>(
      [&] {
        GgufWriter(path_, {}, {{"w", GgufType::kQ1_0, {2, 64}, {}}});
      },
      "multiple of 128", "found 64");
}

/// The bytes of llama.cpp's block_q1_0: fp16 scale, then the bits, least significant first.
TEST_F(Gguf, BlocksOfBits) {
  std::vector<std::uint8_t> bytes(2 * kQ1BlockBytes);
  const auto block = [&](int n) { return bytes.data() + n * kQ1BlockBytes; };
  const std::uint16_t scales[] = {float_to_half(0.75f), float_to_half(-2.0f)};
  for (const int n : {0, 1}) std::memcpy(block(n), &scales[n], 2);
  block(0)[2] = 0b101;  // weights 0 and 2
  block(1)[17] = 0x80;  // weight 127
  const GgufTensor tensor{"q", GgufType::kQ1_0, {2, 128}, std::as_bytes(std::span(bytes))};
  GgufWriter writer(path_, {}, {tensor});
  writer.write(tensor.bytes);
  writer.finish();
  const GgufFile file(path_);
  EXPECT_EQ(file.tensors().at(0).type, GgufType::kQ1_0);
  EXPECT_EQ(to_string(file.tensors()[0].type), "Q1_0");
  std::vector<float> values(256), expected(256);
  to_float(file.tensors()[0], values);
  for (std::size_t i = 0; i < 128; ++i) expected[i] = i == 0 || i == 2 ? 0.75f : -0.75f;
  for (std::size_t i = 128; i < 256; ++i) expected[i] = i == 255 ? -2.0f : 2.0f;
  EXPECT_EQ(values, expected);
  expect_error<UsageError>([&] { to_float(file.tensors()[0], std::span(values).first(128)); },
                           "256 values, found 128");
}

}  // namespace
}  // namespace fbi::formats
