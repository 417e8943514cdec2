#include "formats/torch_file.h"

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "fbi/core/error.h"
#include "formats/state_dict_pickle.h"
#include "formats/strict_json.h"
#include "formats/zip_archive.h"

namespace fbi::formats {
namespace {

using Bytes = std::span<const std::byte>;
using Archive = std::map<std::string, Bytes>;

constexpr std::size_t kMaxPickleBytes = 32u << 20;

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void check_kind(Bytes file, const std::string& place) {
  constexpr std::string_view kZip = "PK\x03\x04", kPickle = "\x80\x02";
  const std::string_view text = text_of(file);
  if (text.starts_with(kZip)) return;
  if (text.starts_with(kPickle)) {
    throw DataError(concat(
        place,
        " was saved in the form that torch used before 1.6; load it with torch.load and save "
        "it again with torch.save"));
  }
  throw DataError(concat(place, " is no file of torch.save: expected a zip archive"));
}

/// "archive/" of "archive/data.pkl": the folder that everything lies in.
std::string folder_of(const Archive& archive, const std::string& place) {
  constexpr std::string_view kPickle = "/data.pkl";
  std::string folder;
  for (const auto& [name, bytes] : archive) {
    if (!name.ends_with(kPickle) || name.find('/') != name.size() - kPickle.size()) continue;
    if (!folder.empty()) throw DataError(concat(place, " holds data.pkl twice"));
    folder = name.substr(0, name.size() - kPickle.size() + 1);
  }
  if (folder.empty())
    throw DataError(concat(place, " is no file of torch.save: it holds no data.pkl"));
  return folder;
}

void check_byte_order(const Archive& archive, const std::string& folder, const std::string& place) {
  const auto found = archive.find(folder + "byteorder");
  if (found == archive.end() || text_of(found->second) == "little") return;
  throw DataError(
      concat(place, ": byte order ", printable(text_of(found->second)), ", expected \"little\""));
}

/// Where a tensor lies in its storage.
class TensorPlacer {
 public:
  TensorPlacer(const Archive& archive, std::string folder, const std::string& place)
      : archive_(archive), folder_(std::move(folder)), place_(place) {}

  TensorView view(const PickledTensor& tensor) const {
    const auto fail = [&](const auto&... what) {
      throw DataError(concat(place_, ": tensor ", printable(tensor.name), ": ", what...));
    };
    const auto storage = archive_.find(concat(folder_, "data/", tensor.storage));
    if (storage == archive_.end())
      fail("its storage data/", printable(tensor.storage), " is not in the archive");
    const auto element_bytes = static_cast<std::uint64_t>(size_of(tensor.dtype));
    std::uint64_t bytes = element_bytes;
    for (const std::int64_t extent : tensor.shape) {
      const std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
      if (extent != 0 && bytes > limit / static_cast<std::uint64_t>(extent)) {
        fail("shape ", shape_text(tensor.shape), " has more bytes than a file can have");
      }
      bytes *= static_cast<std::uint64_t>(extent);
    }
    if (!is_contiguous(tensor)) {
      fail("strides ", shape_text(tensor.strides), " of shape ", shape_text(tensor.shape),
           " are not row-major; save it after .contiguous()");
    }
    const std::uint64_t held = storage->second.size();
    if (bytes > 0 && (static_cast<std::uint64_t>(tensor.offset) > held / element_bytes ||
                      bytes > held - static_cast<std::uint64_t>(tensor.offset) * element_bytes)) {
      fail("expected ", bytes, " bytes for ", to_string(tensor.dtype), " ",
           shape_text(tensor.shape), " from element ", tensor.offset, " on, found ", held,
           " bytes of storage");
    }
    const std::uint64_t begin =
        bytes > 0 ? static_cast<std::uint64_t>(tensor.offset) * element_bytes : 0;
    return {std::string(tensor.name), tensor.dtype, tensor.shape,
            storage->second.subspan(begin, bytes)};
  }

 private:
  static bool is_contiguous(const PickledTensor& tensor) {
    std::int64_t expected = 1;
    for (const std::int64_t extent : tensor.shape) {
      if (extent == 0) return true;
    }
    for (std::size_t i = tensor.shape.size(); i-- > 0;) {
      if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
      expected *= tensor.shape[i];
    }
    return true;
  }

  const Archive& archive_;
  std::string folder_;
  const std::string& place_;
};

}  // namespace

TorchFile::TorchFile(const std::filesystem::path& path) : file_(path) {
  const std::string place = path.string();
  check_kind(file_.bytes(), place);
  const Archive archive = read_zip(file_.bytes(), place);
  const std::string folder = folder_of(archive, place);
  check_byte_order(archive, folder, place);
  const Bytes pickle = archive.at(folder + "data.pkl");
  if (pickle.size() > kMaxPickleBytes) {
    throw DataError(concat(place, ": a pickle of ", pickle.size(), " bytes, at most ",
                           kMaxPickleBytes, " are read"));
  }
  const TensorPlacer placer(archive, folder, place);
  for (const PickledTensor& tensor : read_state_dict_pickle(pickle, place))
    tensors_.push_back(placer.view(tensor));
}

}  // namespace fbi::formats
