#include <algorithm>
#include <cstring>
#include <limits>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/safetensors_limits.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

using nlohmann::json;

// One file while its header is checked. `place` begins every message.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, const std::filesystem::path& path)
      : place_(path.string()) {
    std::uint64_t header_bytes = 0;
    if (file.size() < sizeof header_bytes) {
      fail("expected at least 8 bytes, found ", file.size(),
           ": not a safetensors file or cut short");
    }
    std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
    if (header_bytes > kMaxHeaderBytes) {
      fail("expected a header of at most ", kMaxHeaderBytes, " bytes, found ", header_bytes,
           ": not a safetensors file, or damaged");
    }
    if (header_bytes > file.size() - sizeof header_bytes) {
      fail("header of ", header_bytes, " bytes in a file of ", file.size(), ": cut short");
    }
    const auto header = file.subspan(sizeof header_bytes, header_bytes);
    buffer_ = file.subspan(sizeof header_bytes + header_bytes);
    const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
    if (!text.starts_with('{')) fail("expected a header that begins with '{'");
    header_ = parse_strict_json(text, place_);
  }

  void check_metadata() const {
    const auto found = header_.find(kMetadataKey);
    if (found == header_.end()) return;
    if (!found->is_object()) fail(kMetadataKey, ": expected an object of strings");
    for (const auto& [key, value] : found->items()) {
      if (!value.is_string()) fail(kMetadataKey, ": expected a string for ", printable(key));
    }
  }

  // In file order. Together they cover the buffer without overlap or hole.
  std::vector<TensorView> tensors() const {
    std::vector<TensorView> result;
    for (const auto& [name, entry] : header_.items()) {
      if (name != kMetadataKey) result.push_back(tensor(name, entry));
    }
    const auto begin_of = [](const TensorView& view) { return view.bytes.data(); };
    std::sort(result.begin(), result.end(), [&](const TensorView& a, const TensorView& b) {
      // An empty tensor shares its place with the one that begins there and comes first.
      return std::pair(begin_of(a), a.bytes.size()) < std::pair(begin_of(b), b.bytes.size());
    });
    std::size_t next = 0;
    for (const auto& view : result) {
      const auto begin = static_cast<std::size_t>(begin_of(view) - buffer_.data());
      if (begin != next) {
        fail("tensor ", printable(view.name), ": expected data_offsets to begin at ", next,
             ", found ", begin, begin < next ? " (tensors overlap)" : " (hole between tensors)");
      }
      next = begin + view.bytes.size();
    }
    if (next != buffer_.size()) {
      fail("expected ", next, " bytes of tensors, found ", buffer_.size());
    }
    return result;
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw DataError(concat(place_, ": ", args...));
  }

  TensorView tensor(const std::string& name, const json& entry) const {
    const auto refuse = [&](const auto&... what) {
      fail("tensor ", printable(name), ": ", what...);
    };
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
        !entry.contains("shape") || !entry.contains("data_offsets")) {
      refuse("expected an object with dtype, shape and data_offsets");
    }
    TensorView view;
    view.name = name;

    const json& dtype = entry["dtype"];
    const auto known =
        dtype.is_string() ? dtype_from_string(dtype.get_ref<const std::string&>()) : std::nullopt;
    if (!known) refuse("dtype ", printable(dtype.dump()), " is not supported");
    view.dtype = *known;

    const json& shape = entry["shape"];
    if (!shape.is_array()) refuse("expected an array as shape");
    // At most the largest signed number, so that no later product of extents overflows.
    const std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
    std::uint64_t expected_bytes = static_cast<std::uint64_t>(size_of(view.dtype));
    bool overflow = false;
    for (const json& extent : shape) {
      if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > limit) {
        refuse("shape ", printable(shape.dump()), ": expected whole numbers from 0 to ", limit);
      }
      const auto value = extent.get<std::uint64_t>();
      overflow = overflow || (value != 0 && expected_bytes > limit / value);
      if (!overflow) expected_bytes *= value;
      view.shape.push_back(static_cast<std::int64_t>(value));
    }
    if (overflow) refuse("shape ", printable(shape.dump()), " has more bytes than a file can have");

    const json& offsets = entry["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      refuse("data_offsets: expected two whole numbers, found ", printable(offsets.dump()));
    }
    const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    if (begin > end || end > buffer_.size()) {
      refuse("data_offsets ", offsets.dump(), " outside the ", buffer_.size(),
             " bytes of tensors in the file",
             begin > end ? "" : "; it may have been cut short on its way: fetch or make it again");
    }
    if (end - begin != expected_bytes) {
      refuse("expected ", expected_bytes, " bytes for ", to_string(view.dtype), " ", shape.dump(),
             ", found ", end - begin);
    }
    view.bytes = buffer_.subspan(begin, end - begin);
    return view;
  }

  std::string place_;
  std::span<const std::byte> buffer_;
  json header_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const HeaderReader header(file_.bytes(), path);
  header.check_metadata();
  tensors_ = header.tensors();
}

}  // namespace fbi::formats
