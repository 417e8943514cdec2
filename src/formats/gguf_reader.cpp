#include <cstring>
#include <limits>
#include <set>

#include "fbi/core/error.h"
#include "fbi/formats/gguf.h"
#include "formats/gguf_types.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

constexpr std::uint32_t kMaxDimensions = 4;

class GgufReader {
 public:
  GgufReader(std::span<const std::byte> file, const std::filesystem::path& path)
      : file_(file), place_(path.string()) {
    if (file.size() < sizeof kGgufMagic ||
        std::memcmp(file.data(), kGgufMagic, sizeof kGgufMagic) != 0)
      fail("not a GGUF file");
    position_ = sizeof kGgufMagic;
    if (const auto version = number<std::uint32_t>(); version != kGgufVersion)
      fail("expected version ", kGgufVersion, ", found ", version);
    tensor_count_ = number<std::uint64_t>();
    key_count_ = number<std::uint64_t>();
  }

  std::map<std::string, GgufValue> metadata() {
    std::map<std::string, GgufValue> result;
    for (std::uint64_t i = 0; i < key_count_; ++i) {
      std::string key = text();
      GgufValue read = value();
      if (!result.emplace(key, std::move(read)).second)
        fail("key ", printable(key), " occurs twice");
    }
    return result;
  }

  std::vector<GgufTensor> tensors() {
    std::vector<GgufTensor> result;
    std::vector<std::uint64_t> offsets;
    std::set<std::string> names;
    for (std::uint64_t i = 0; i < tensor_count_; ++i) {
      result.push_back(tensor_info());
      offsets.push_back(number<std::uint64_t>());
      if (!names.insert(result.back().name).second)
        fail("tensor ", printable(result.back().name), " occurs twice");
    }
    const std::uint64_t begin = gguf_aligned(position_);
    if (begin > file_.size()) fail("it is cut short");
    const auto buffer = file_.subspan(begin);
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const std::uint64_t bytes = bytes_of(result[i]);
      if (offsets[i] != next)
        fail("tensor ", printable(result[i].name), ": expected offset ", next, ", found ",
             offsets[i]);
      if (next > buffer.size() || bytes > buffer.size() - next)
        fail("tensor ", printable(result[i].name), " lies outside the file");
      result[i].bytes = buffer.subspan(next, bytes);
      next = gguf_aligned(next + bytes);
    }
    return result;
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw DataError(concat(place_, ": ", args...));
  }
  std::span<const std::byte> take(std::uint64_t bytes) {
    if (bytes > file_.size() - position_) fail("it is cut short");
    const auto part = file_.subspan(position_, bytes);
    position_ += bytes;
    return part;
  }
  template <class T>
  T number() {
    T result;
    std::memcpy(&result, take(sizeof result).data(), sizeof result);
    return result;
  }
  std::string text() {
    const auto bytes = take(number<std::uint64_t>());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  GgufValue value() {
    switch (const auto kind = number<GgufKind>(); kind) {
      case GgufKind::kUint32:
        return number<std::uint32_t>();
      case GgufKind::kFloat32:
        return number<float>();
      case GgufKind::kBool:
        return number<std::uint8_t>() != 0;
      case GgufKind::kString:
        return text();
      case GgufKind::kArray:
        return array();
      default:
        fail("a value of type ", static_cast<std::uint32_t>(kind), " is not read");
    }
  }
  GgufValue array() {
    const auto kind = number<GgufKind>();
    const auto count = number<std::uint64_t>();
    if (kind == GgufKind::kInt32) return numbers<std::int32_t>(count);
    if (kind == GgufKind::kFloat32) return numbers<float>(count);
    if (kind != GgufKind::kString)
      fail("a list of type ", static_cast<std::uint32_t>(kind), " is not read");
    std::vector<std::string> texts;
    for (std::uint64_t i = 0; i < count; ++i) texts.push_back(text());
    return texts;
  }
  template <class T>
  std::vector<T> numbers(std::uint64_t count) {
    if (count > file_.size() / sizeof(T)) fail("it is cut short");
    std::vector<T> result(count);
    const auto bytes = take(count * sizeof(T));
    if (!bytes.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }

  GgufTensor tensor_info() {
    GgufTensor view;
    view.name = text();
    const auto dimensions = number<std::uint32_t>();
    if (dimensions == 0 || dimensions > kMaxDimensions)
      fail("tensor ", printable(view.name), " has ", dimensions, " dimensions");
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto extent = number<std::uint64_t>();
      if (extent == 0 ||
          extent > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
        fail("tensor ", printable(view.name), " has an extent of ", extent);
      }
      view.shape.insert(view.shape.begin(), static_cast<std::int64_t>(extent));
    }
    view.type = number<GgufType>();
    if (view.type != GgufType::kF32 && view.type != GgufType::kF16 &&
        view.type != GgufType::kQ1_0) {
      fail("tensor ", printable(view.name), ": ", to_string(view.type), " is not read");
    }
    if (view.type == GgufType::kQ1_0 && view.shape.back() % kQ1BlockWeights != 0) {
      fail("tensor ", printable(view.name), ": a row of Q1_0 has ", view.shape.back(),
           " weights, no multiple of ", kQ1BlockWeights);
    }
    return view;
  }
  std::uint64_t bytes_of(const GgufTensor& view) const {
    auto bytes = static_cast<std::uint64_t>(row_bytes(view.type, view.shape.back()));
    if (bytes > file_.size()) fail("tensor ", printable(view.name), " lies outside the file");
    for (std::size_t i = 0; i + 1 < view.shape.size(); ++i) {
      const auto extent = static_cast<std::uint64_t>(view.shape[i]);
      if (bytes > file_.size() / extent)
        fail("tensor ", printable(view.name), " lies outside the file");
      bytes *= extent;
    }
    return bytes;
  }

  std::span<const std::byte> file_;
  std::string place_;
  std::uint64_t position_ = 0, tensor_count_ = 0, key_count_ = 0;
};

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) {
  GgufReader reader(file_.bytes(), path);
  metadata_ = reader.metadata();
  tensors_ = reader.tensors();
}

}  // namespace fbi::formats
