#include "infer/stop_strings.h"

#include <algorithm>
#include <utility>

#include "fbi/core/error.h"

namespace fbi::infer {

StopStrings::StopStrings(std::vector<std::string> stop, std::function<void(std::string_view)> emit)
    : stop_(std::move(stop)), emit_(std::move(emit)) {
  for (const std::string& text : stop_) {
    if (text.empty()) throw UsageError("a stop string is empty; leave it out to not stop");
    if ((static_cast<unsigned char>(text.front()) & 0xC0u) == 0x80u) {
      throw UsageError("a stop string starts inside a UTF-8 character");
    }
  }
}

bool StopStrings::push(std::string_view text) {
  pending_ += text;
  // The first to be complete counts, of those that end together the longest: so how tokens cut the
  // text does not matter.
  std::size_t found = std::string::npos, found_end = std::string::npos;
  for (const std::string& stop : stop_) {
    const std::size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < found_end || (end == found_end && begin < found)) found = begin, found_end = end;
  }
  if (found != std::string::npos) {
    emit(found);
    pending_.clear();
    return true;
  }
  // Held back: the longest end of the text that may become a stop string.
  std::size_t held = 0;
  for (const std::string& stop : stop_) {
    for (std::size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  emit(pending_.size() - held);
  return false;
}

void StopStrings::finish() {
  emit(pending_.size());
}

void StopStrings::emit(std::size_t count) {
  if (count == 0) return;
  emit_(std::string_view(pending_).substr(0, count));
  pending_.erase(0, count);
}

}  // namespace fbi::infer
