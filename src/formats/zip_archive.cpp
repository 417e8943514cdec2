#include "formats/zip_archive.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

#include "fbi/core/error.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint32_t kEndRecord = 0x06054b50, kEnd64Locator = 0x07064b50,
                        kEnd64Record = 0x06064b50, kCentralEntry = 0x02014b50,
                        kLocalEntry = 0x04034b50;
constexpr std::size_t kEndRecordBytes = 22, kEnd64LocatorBytes = 20, kEnd64RecordBytes = 56,
                      kCentralEntryBytes = 46, kLocalEntryBytes = 30;
constexpr std::uint16_t kZip64Field = 1, kEncrypted = 1;
constexpr std::uint32_t kSaturated16 = 0xffff, kSaturated32 = 0xffffffff;

template <class T>
T number_at(Bytes bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::string_view text_at(Bytes bytes, std::size_t offset, std::size_t size) {
  return {reinterpret_cast<const char*>(bytes.data()) + offset, size};
}

struct Directory {
  std::uint64_t offset = 0, bytes = 0, entries = 0;
};

struct Entry {
  std::string name;
  std::uint64_t stored_bytes = 0, bytes = 0, local_offset = 0;
  std::uint16_t flags = 0, method = 0;
};

class ZipReader {
 public:
  ZipReader(Bytes file, const std::string& place) : file_(file), place_(place) {}

  std::map<std::string, Bytes> entries() const {
    const Directory directory = find_directory();
    Bytes rest = part(directory.offset, directory.bytes, "the central directory");
    std::map<std::string, Bytes> result;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
      const Entry entry = take_entry(rest);
      if (!result.emplace(entry.name, content(entry)).second) {
        fail("entry ", printable(entry.name), " occurs twice");
      }
    }
    if (!rest.empty())
      fail("the central directory has more than its ", directory.entries, " entries");
    return result;
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw DataError(concat(place_, ": not a sound zip archive: ", args...));
  }

  Bytes part(std::uint64_t offset, std::uint64_t bytes, const char* what) const {
    if (offset > file_.size() || bytes > file_.size() - offset) {
      fail(what, " (", bytes, " bytes from ", offset, " on) lies outside the ", file_.size(),
           " bytes of the file");
    }
    return file_.subspan(offset, bytes);
  }

  /// The end record is the last thing in the file but for a comment, whose length it holds.
  std::size_t find_end_record() const {
    constexpr std::size_t kMaxComment = 0xffff;
    for (std::size_t comment = 0;
         comment <= kMaxComment && file_.size() >= kEndRecordBytes + comment; ++comment) {
      const std::size_t at = file_.size() - kEndRecordBytes - comment;
      if (number_at<std::uint32_t>(file_, at) == kEndRecord &&
          number_at<std::uint16_t>(file_, at + 20) == comment) {
        return at;
      }
    }
    fail("it has no end record; the file is cut short or of another kind");
  }

  Directory find_directory() const {
    const std::size_t at = find_end_record();
    const Bytes end = file_.subspan(at);
    Directory directory{number_at<std::uint32_t>(end, 16), number_at<std::uint32_t>(end, 12),
                        number_at<std::uint16_t>(end, 10)};
    if (number_at<std::uint16_t>(end, 4) != 0 || number_at<std::uint16_t>(end, 6) != 0) {
      fail("it is spread over several disks");
    }
    if (at < kEnd64LocatorBytes ||
        number_at<std::uint32_t>(file_, at - kEnd64LocatorBytes) != kEnd64Locator) {
      return directory;
    }
    const auto offset = number_at<std::uint64_t>(file_, at - kEnd64LocatorBytes + 8);
    const Bytes end64 = part(offset, kEnd64RecordBytes, "the zip64 end record");
    if (number_at<std::uint32_t>(end64, 0) != kEnd64Record) fail("its zip64 end record is missing");
    const Directory large{number_at<std::uint64_t>(end64, 48), number_at<std::uint64_t>(end64, 40),
                          number_at<std::uint64_t>(end64, 32)};
    if ((directory.offset != large.offset && directory.offset != kSaturated32) ||
        (directory.bytes != large.bytes && directory.bytes != kSaturated32) ||
        (directory.entries != large.entries && directory.entries != kSaturated16)) {
      fail("its end record and zip64 end record disagree");
    }
    return large;
  }

  Entry take_entry(Bytes& rest) const {
    if (rest.size() < kCentralEntryBytes || number_at<std::uint32_t>(rest, 0) != kCentralEntry) {
      fail("the central directory is cut short or damaged");
    }
    Entry entry;
    entry.flags = number_at<std::uint16_t>(rest, 8);
    entry.method = number_at<std::uint16_t>(rest, 10);
    entry.stored_bytes = number_at<std::uint32_t>(rest, 20);
    entry.bytes = number_at<std::uint32_t>(rest, 24);
    entry.local_offset = number_at<std::uint32_t>(rest, 42);
    const std::size_t name = number_at<std::uint16_t>(rest, 28),
                      extra = number_at<std::uint16_t>(rest, 30),
                      comment = number_at<std::uint16_t>(rest, 32);
    if (rest.size() < kCentralEntryBytes + name + extra + comment) {
      fail("the central directory is cut short");
    }
    entry.name = text_at(rest, kCentralEntryBytes, name);
    widen(entry, rest.subspan(kCentralEntryBytes + name, extra));
    rest = rest.subspan(kCentralEntryBytes + name + extra + comment);
    return entry;
  }

  /// Takes the 64-bit numbers that do not fit the entry itself from its extra fields.
  void widen(Entry& entry, Bytes extra) const {
    constexpr std::size_t kFieldHeader = 4;
    while (extra.size() >= kFieldHeader) {
      const auto id = number_at<std::uint16_t>(extra, 0);
      const std::size_t bytes = number_at<std::uint16_t>(extra, 2);
      if (bytes > extra.size() - kFieldHeader) fail("an extra field is cut short");
      Bytes field = extra.subspan(kFieldHeader, bytes);
      extra = extra.subspan(kFieldHeader + bytes);
      if (id != kZip64Field) continue;
      for (std::uint64_t* value : {&entry.bytes, &entry.stored_bytes, &entry.local_offset}) {
        if (*value != kSaturated32) continue;
        if (field.size() < 8) fail("the zip64 sizes of ", printable(entry.name), " are missing");
        *value = number_at<std::uint64_t>(field, 0);
        field = field.subspan(8);
      }
    }
  }

  Bytes content(const Entry& entry) const {
    if (entry.method != 0 || entry.flags & kEncrypted) {
      fail("entry ", printable(entry.name),
           entry.flags & kEncrypted ? " is encrypted" : " is compressed",
           "; torch.save stores tensors as they are");
    }
    if (entry.stored_bytes != entry.bytes) {
      fail("entry ", printable(entry.name), " has two sizes: ", entry.stored_bytes, " and ",
           entry.bytes);
    }
    const Bytes local = part(entry.local_offset, kLocalEntryBytes, "a local header");
    const std::size_t name = number_at<std::uint16_t>(local, 26),
                      extra = number_at<std::uint16_t>(local, 28);
    const std::uint64_t begin = entry.local_offset + kLocalEntryBytes;
    const Bytes named = part(begin, name + extra, "a local header");
    if (number_at<std::uint32_t>(local, 0) != kLocalEntry ||
        text_at(named, 0, name) != entry.name) {
      fail("entry ", printable(entry.name), " is not where the central directory says");
    }
    return part(begin + name + extra, entry.bytes, "an entry");
  }

  Bytes file_;
  const std::string& place_;
};

}  // namespace

std::map<std::string, Bytes> read_zip(Bytes file, const std::string& place) {
  return ZipReader(file, place).entries();
}

}  // namespace fbi::formats
