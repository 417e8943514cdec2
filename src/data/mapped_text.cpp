#include "data/mapped_text.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace fbi::data {

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void release_pages(const MappedFile& file, std::string_view part) {
  if (part.empty()) return;
  constexpr std::uintptr_t kFaultAround = 64 << 10;  // a fault maps the aligned block of this size
  const auto address = [](std::string_view text) {
    return reinterpret_cast<std::uintptr_t>(text.data());
  };
  const std::string_view all = text_of(file);
  const std::uintptr_t begin = std::max(address(all), address(part) / kFaultAround * kFaultAround);
  const std::uintptr_t end = std::min(
      address(all) + all.size(), ((address(part) + part.size()) / kFaultAround + 1) * kFaultAround);
  // Only advice: when it is refused the pages stay, which is no error.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace fbi::data
