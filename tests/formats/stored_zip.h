#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace fbi::formats {

inline void append_number(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i, value >>= 8) out.push_back(static_cast<char>(value));
}

/// A zip archive without compression, small enough for 32-bit records, whose fields a test may
/// falsify.
struct StoredZip {
  std::vector<std::pair<std::string, std::string>> entries;
  std::uint16_t flags = 0, method = 0;
  std::uint32_t added_bytes = 0;  ///< to the size that the central directory gives
  std::string local_name_prefix;
  std::string comment;
  bool zip64 = false;  ///< sizes and places in 64-bit records alone

  std::string bytes() const {
    std::string out, directory;
    for (const auto& [name, content] : entries) {
      const std::uint64_t offset = out.size();
      const std::string local_name = local_name_prefix + name;
      append_number(out, 0x04034b50, 4);
      append_number(out, 0, 22);
      append_number(out, local_name.size(), 2);
      append_number(out, 0, 2);
      out += local_name + content;
      add_entry(directory, name, content.size() + added_bytes, offset);
    }
    const std::uint64_t begin = out.size();
    out += directory;
    if (zip64) add_end64(out, begin, directory.size());
    append_number(out, 0x06054b50, 4);
    append_number(out, 0, 4);
    append_number(out, zip64 ? 0xffff : entries.size(), 2);
    append_number(out, zip64 ? 0xffff : entries.size(), 2);
    append_number(out, zip64 ? 0xffffffff : directory.size(), 4);
    append_number(out, zip64 ? 0xffffffff : begin, 4);
    append_number(out, comment.size(), 2);
    return out + comment;
  }

 private:
  void add_entry(std::string& directory, const std::string& name, std::uint64_t size,
                 std::uint64_t offset) const {
    append_number(directory, 0x02014b50, 4);
    append_number(directory, 0, 4);
    append_number(directory, flags, 2);
    append_number(directory, method, 2);
    append_number(directory, 0, 8);
    append_number(directory, zip64 ? 0xffffffff : size, 4);
    append_number(directory, zip64 ? 0xffffffff : size, 4);
    append_number(directory, name.size(), 2);
    append_number(directory, zip64 ? 28 : 0, 2);
    append_number(directory, 0, 10);
    append_number(directory, zip64 ? 0xffffffff : offset, 4);
    directory += name;
    if (!zip64) return;
    append_number(directory, 1, 2);
    append_number(directory, 24, 2);
    append_number(directory, size, 8);
    append_number(directory, size, 8);
    append_number(directory, offset, 8);
  }
  void add_end64(std::string& out, std::uint64_t begin, std::uint64_t directory_bytes) const {
    const std::uint64_t end64 = out.size();
    append_number(out, 0x06064b50, 4);
    append_number(out, 44, 8);
    append_number(out, 0, 12);
    append_number(out, entries.size(), 8);
    append_number(out, entries.size(), 8);
    append_number(out, directory_bytes, 8);
    append_number(out, begin, 8);
    append_number(out, 0x07064b50, 4);
    append_number(out, 0, 4);
    append_number(out, end64, 8);
    append_number(out, 1, 4);
  }
};

}  // namespace fbi::formats
