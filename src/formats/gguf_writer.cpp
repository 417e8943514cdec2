#include <algorithm>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/formats/gguf.h"
#include "formats/gguf_types.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

std::uint64_t bytes_of(const GgufTensor& tensor) {
  std::int64_t bytes = row_bytes(tensor.type, tensor.shape.back());
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) bytes *= tensor.shape[i];
  return static_cast<std::uint64_t>(bytes);
}

/// The bytes before the tensors.
class Header {
 public:
  void add_bytes(const void* data, std::size_t size) {
    text_.append(static_cast<const char*>(data), size);
  }
  template <class T>
  void add(T value) {
    add_bytes(&value, sizeof value);
  }
  void add(const std::string& text) {
    add<std::uint64_t>(text.size());
    text_ += text;
  }
  void add(bool value) { add<std::uint8_t>(value); }

  template <class T>
  void add_value(GgufKind kind, const T& value) {
    add(kind);
    add(value);
  }
  template <class T>
  void add_array(GgufKind kind, const std::vector<T>& values) {
    add(GgufKind::kArray);
    add(kind);
    add<std::uint64_t>(values.size());
    for (const T& value : values) add(value);
  }
  void add_value(const GgufValue& value) {
    std::visit([this](const auto& alternative) { put(alternative); }, value);
  }
  void align() { text_.resize(gguf_aligned(text_.size()), '\0'); }
  const std::string& text() const { return text_; }

 private:
  void put(std::uint32_t value) { add_value(GgufKind::kUint32, value); }
  void put(float value) { add_value(GgufKind::kFloat32, value); }
  void put(bool value) { add_value(GgufKind::kBool, value); }
  void put(const std::string& value) { add_value(GgufKind::kString, value); }
  void put(const std::vector<std::int32_t>& values) { add_array(GgufKind::kInt32, values); }
  void put(const std::vector<float>& values) { add_array(GgufKind::kFloat32, values); }
  void put(const std::vector<std::string>& values) { add_array(GgufKind::kString, values); }

  std::string text_;
};

std::string header_text(const GgufMetadata& metadata, const std::vector<GgufTensor>& layout) {
  Header header;
  header.add_bytes(kGgufMagic, sizeof kGgufMagic);
  header.add(kGgufVersion);
  header.add<std::uint64_t>(layout.size());
  header.add<std::uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) {
    header.add(key);
    header.add_value(value);
  }
  std::uint64_t offset = 0;
  for (const GgufTensor& tensor : layout) {
    header.add(tensor.name);
    header.add(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      header.add(static_cast<std::uint64_t>(*extent));
    header.add(tensor.type);
    header.add(offset);
    offset += gguf_aligned(bytes_of(tensor));
  }
  header.align();
  return header.text();
}

}  // namespace

struct GgufWriter::Impl {
  Impl(const std::filesystem::path& path, std::vector<GgufTensor> tensors)
      : place(path.string()), layout(std::move(tensors)), file(path) {}
  void write(std::span<const std::byte> bytes) {
    file.write(bytes);
    hasher.update(bytes);
  }

  std::string place;
  std::vector<GgufTensor> layout;
  DurableFile file;
  Hasher128 hasher;
  std::size_t position = 0;  // tensors written
};

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensor> layout) {
  const std::string header = header_text(metadata, layout);
  impl_ = std::make_unique<Impl>(path, std::move(layout));
  impl_->write(std::as_bytes(std::span(header.data(), header.size())));
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(std::span<const std::byte> tensor) {
  const bool expected = impl_->position < impl_->layout.size();
  if (!expected || bytes_of(impl_->layout[impl_->position]) != tensor.size()) {
    throw UsageError(concat(impl_->place, ": expected ",
                            expected ? bytes_of(impl_->layout[impl_->position]) : 0,
                            " bytes for tensor ", impl_->position, " of ", impl_->layout.size(),
                            ", found ", tensor.size()));
  }
  impl_->write(tensor);
  constexpr std::byte kPadding[kGgufAlignment] = {};
  impl_->write(std::span(kPadding).first(gguf_aligned(tensor.size()) - tensor.size()));
  ++impl_->position;
}

WrittenFile GgufWriter::finish() {
  if (impl_->position != impl_->layout.size()) {
    throw UsageError(concat(impl_->place, ": expected ", impl_->layout.size(), " tensors, found ",
                            impl_->position));
  }
  impl_->file.commit();
  return {impl_->file.bytes_written(), impl_->hasher.hex()};
}

}  // namespace fbi::formats
