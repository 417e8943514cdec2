#include "config/problems.h"

#include "fbi/core/error.h"

namespace fbi::config {

bool within(std::string_view path, std::string_view parent) {
  return path.substr(0, parent.size()) == parent &&
         (path.size() == parent.size() || path[parent.size()] == '.');
}

void Problems::add(const std::string& path, const std::string& value, const std::string& message) {
  std::string text = path;
  if (!value.empty()) text += " = " + value;
  text += ": " + message;
  if (const std::string origin = origin_of(path); !origin.empty()) text += " (from " + origin + ")";
  entries_.push_back({path, std::move(text)});
}

std::string Problems::origin_of(std::string_view path) const {
  std::string_view best_parent;
  std::string best;
  for (const auto& [parent, where] : origins_) {
    if (within(path, parent) && parent.size() >= best_parent.size()) {
      best_parent = parent;
      best = where;
    }
  }
  return best;
}

bool Problems::touches(std::string_view path) const {
  for (const Entry& entry : entries_) {
    if (within(entry.path, path) || within(path, entry.path)) return true;
  }
  return false;
}

std::string Problems::report(const std::string& source) const {
  if (entries_.size() == 1) return source + ": " + entries_.front().text;
  std::string text = concat(source, ": ", entries_.size(), " problems");
  for (const Entry& entry : entries_) text += "\n  " + entry.text;
  return text;
}

}  // namespace fbi::config
