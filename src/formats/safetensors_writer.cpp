#include <limits>
#include <set>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/formats/safetensors.h"
#include "formats/safetensors_limits.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

using nlohmann::json;

std::uint64_t checked_bytes(const TensorView& tensor, const std::string& place) {
  const std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
  auto bytes = static_cast<std::uint64_t>(size_of(tensor.dtype));
  for (const std::int64_t extent : tensor.shape) {
    if (extent < 0 || (extent > 0 && bytes > limit / static_cast<std::uint64_t>(extent))) {
      throw UsageError(concat(place, ": tensor ", printable(tensor.name),
                              " has the impossible shape ", json(tensor.shape).dump()));
    }
    bytes *= static_cast<std::uint64_t>(extent);
  }
  return bytes;
}

// The header's JSON, padded so that the tensors begin at a multiple of 8. Pieces are joined by hand
// to keep file order.
std::string header_text(std::span<const TensorView> layout, const std::string& place) {
  // transformers refuses files without a format
  std::string text = concat("{\"", kMetadataKey, R"(":{"format":"pt"})");
  std::set<std::string_view> names;
  std::uint64_t offset = 0;
  for (const auto& tensor : layout) {
    if (tensor.name == kMetadataKey || !names.insert(tensor.name).second) {
      throw UsageError(concat(place, ": tensor name ", printable(tensor.name),
                              tensor.name == kMetadataKey ? " is reserved" : " occurs twice"));
    }
    const std::uint64_t end = offset + checked_bytes(tensor, place);
    if (end > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      throw UsageError(concat(place, ": the tensors together are larger than a file can be"));
    }
    const json entry{{"dtype", to_string(tensor.dtype)},
                     {"shape", tensor.shape},
                     {"data_offsets", {offset, end}}};
    text.append(",").append(json(tensor.name).dump()).append(":").append(entry.dump());
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw UsageError(
        concat(place, ": header of ", text.size(), " bytes, the format allows ", kMaxHeaderBytes));
  }
  return text;
}

}  // namespace

struct SafetensorsWriter::Impl {
  explicit Impl(const std::filesystem::path& path) : place(path.string()), file(path) {}

  void write(std::span<const std::byte> bytes) {
    file.write(bytes);
    hasher.update(bytes);
  }

  std::string place;
  DurableFile file;
  Hasher128 hasher;
  std::uint64_t expected_bytes = 0;  // of the whole file
};

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::span<const TensorView> layout) {
  std::string header;
  try {
    header = header_text(layout, path.string());
  } catch (const json::exception& error) {  // a name that is not UTF-8
    throw UsageError(concat(path.string(), ": ", error.what()));
  }
  impl_ = std::make_unique<Impl>(path);
  const std::uint64_t header_bytes = header.size();
  impl_->write(std::as_bytes(std::span(&header_bytes, 1)));
  impl_->write(std::as_bytes(std::span(header.data(), header.size())));
  impl_->expected_bytes = impl_->file.bytes_written();
  for (const auto& tensor : layout) {
    impl_->expected_bytes += checked_bytes(tensor, impl_->place);
  }
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  const std::uint64_t room = impl_->expected_bytes - impl_->file.bytes_written();
  if (bytes.size() > room) {
    throw UsageError(concat(impl_->place, ": the layout leaves room for ", room, " bytes, found ",
                            bytes.size()));
  }
  impl_->write(bytes);
}

WrittenFile SafetensorsWriter::finish() {
  const std::uint64_t written = impl_->file.bytes_written();
  if (written != impl_->expected_bytes) {
    throw UsageError(concat(impl_->place, ": expected ", impl_->expected_bytes,
                            " bytes by the layout, found ", written));
  }
  impl_->file.commit();
  return {written, impl_->hasher.hex()};
}

}  // namespace fbi::formats
