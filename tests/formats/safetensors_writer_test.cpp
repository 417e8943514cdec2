#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/signals.h"
#include "fbi/core/temporary.h"
#include "fbi/formats/safetensors.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::formats {
namespace {

using test::expect_error;

class SafetensorsWriting : public testing::Test {
 protected:
  bool folder_is_empty() const { return std::filesystem::is_empty(folder_.path()); }
  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "x.safetensors";
};

TEST_F(SafetensorsWriting, RoundTrip) {
  std::vector<OwnedTensor> tensors;
  tensors.push_back(floats("z.weight", {1, 2, 3}));
  tensors.emplace_back("a.\"bits\"", DType::kU8, std::vector<std::int64_t>{1, 3},
                       std::vector<std::uint8_t>{7, 8, 9});
  tensors.emplace_back("scalar", DType::kI64, std::vector<std::int64_t>{},
                       std::vector<std::int64_t>{-5});
  tensors.emplace_back("empty", DType::kF16, std::vector<std::int64_t>{4, 0},
                       std::vector<std::uint16_t>{});
  const WrittenFile written = write_safetensors(path_, views_of(tensors));
  const std::string text = read_file(path_);
  EXPECT_EQ(written.bytes, text.size());
  EXPECT_EQ(written.xxh3_128, hash128_hex(bytes_of(text)));

  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView &expected = tensors[i].view(), &found = file.tensors()[i];
    EXPECT_EQ(found.name, expected.name) << "the given order, not the alphabet's";
    EXPECT_EQ(found.dtype, expected.dtype);
    EXPECT_EQ(found.shape, expected.shape);
    EXPECT_TRUE(std::equal(found.bytes.begin(), found.bytes.end(), expected.bytes.begin(),
                           expected.bytes.end()));
  }
  const std::string metadata = R"({"__metadata__":{"format":"pt"},)";
  EXPECT_EQ(text.substr(8, metadata.size()), metadata);
}

TEST_F(SafetensorsWriting, HeaderIsPaddedToEight) {
  for (std::size_t letters = 1; letters <= 9; ++letters) {
    const auto empty = floats(std::string(letters, 'x'), {});
    write_safetensors(path_, std::vector{empty.view()});
    const std::string text = read_file(path_);
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, text.data(), 8);
    EXPECT_EQ(header_bytes % 8, 0u);
    EXPECT_EQ(text.size(), 8 + header_bytes);
    EXPECT_EQ(text[8], '{');
  }
}

TEST_F(SafetensorsWriting, StreamingGivesTheSameFile) {
  std::vector<OwnedTensor> tensors;
  tensors.push_back(floats("a", {1, 2, 3}));
  tensors.push_back(floats("b", {4, 5}));
  const auto views = views_of(tensors);
  const WrittenFile whole = write_safetensors(path_, views);
  SafetensorsWriter writer(folder_ / "streamed", views);
  std::vector<std::byte> all(views[0].bytes.begin(), views[0].bytes.end());
  all.insert(all.end(), views[1].bytes.begin(), views[1].bytes.end());
  for (const std::byte& byte : all) writer.write(std::span(&byte, 1));
  const WrittenFile streamed = writer.finish();
  EXPECT_EQ(streamed.xxh3_128, whole.xxh3_128);
  EXPECT_EQ(read_file(folder_ / "streamed"), read_file(path_));
}

TEST_F(SafetensorsWriting, StreamMustMatchItsLayout) {
  const auto tensor = floats("a", {1, 2});
  const std::vector<TensorView> layout{tensor.view()};
  {
    SafetensorsWriter writer(path_, layout);
    writer.write(tensor.view().bytes.first(7));
    expect_error<UsageError>([&] { writer.finish(); }, path_.string(), "by the layout, found");
    expect_error<UsageError>([&] { writer.write(tensor.view().bytes.first(2)); },
                             "room for 1 bytes, found 2");
  }
  EXPECT_TRUE(folder_is_empty());
}

TEST_F(SafetensorsWriting, Refusals) {
  const auto refuse = [&](const std::vector<TensorView>& tensors, auto... parts) {
    expect_error<UsageError>([&] { write_safetensors(path_, tensors); }, path_.string(), parts...);
    EXPECT_TRUE(folder_is_empty());
  };
  const auto tensor = floats("w", {1, 2});
  refuse({tensor.view(), tensor.view()}, "\"w\" occurs twice");
  TensorView wrong = tensor.view();
  wrong.shape = {3};
  refuse({wrong}, "by the layout, found");
  wrong.shape = {-1};
  refuse({wrong}, "impossible shape [-1]");
  wrong.shape = {std::numeric_limits<std::int64_t>::max(), 2};
  refuse({wrong}, "impossible shape");
  wrong = tensor.view();
  wrong.name = "__metadata__";
  refuse({wrong}, "\"__metadata__\" is reserved");
  wrong.name = "\xff";
  refuse({wrong}, "UTF-8");
}

TEST_F(SafetensorsWriting, FullDiskLeavesTheOldFile) {
  const auto tensor = floats("w", {1, 2});
  write_safetensors(path_, views_of({}));
  const std::string old = read_file(path_);
  const auto temporary = own_temporary(folder_ / "x.safetensors.tmp");
  std::filesystem::create_symlink("/dev/full", temporary);
  expect_error<DiskError>([&] { write_safetensors(path_, std::vector{tensor.view()}); },
                          path_.string(), "No space left on device");
  EXPECT_EQ(read_file(path_), old);
  EXPECT_FALSE(std::filesystem::is_symlink(temporary));
}

TEST_F(SafetensorsWriting, DiskThatFillsUpInTheMiddle) {
  const auto tensor = floats("w", std::vector<float>(100'000, 1.0f));
  const auto child = [&] {
    install_stop_handlers();  // ignores SIGXFSZ
    const rlimit limit{200'000, 200'000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    try {
      write_safetensors(path_, std::vector{tensor.view()});
    } catch (const DiskError& error) {
      return std::strstr(error.what(), "after 200000 bytes") ? 0 : 3;
    }
    return 4;
  };
  EXPECT_EXIT(_exit(child()), testing::ExitedWithCode(0), "");
  EXPECT_TRUE(folder_is_empty());
}

}  // namespace
}  // namespace fbi::formats
