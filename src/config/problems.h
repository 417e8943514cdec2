#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::config {

/// Collects everything that is wrong with a configuration, so that it is reported at once.
class Problems {
 public:
  /// "path = value: message"; an empty value is left out.
  void add(const std::string& path, const std::string& value, const std::string& message);
  /// Values at or below `path` came from `where` ("--set", a file); named in their problems.
  void set_origin(const std::string& path, const std::string& where) { origins_[path] = where; }
  /// Whether something at, above or below `path` was reported: follow-up checks would only mislead.
  bool touches(std::string_view path) const;
  bool empty() const { return entries_.empty(); }
  /// One text for an exception: "source: problem", or a list with a count.
  std::string report(const std::string& source) const;

 private:
  std::string origin_of(std::string_view path) const;

  struct Entry {
    std::string path;
    std::string text;
  };
  std::vector<Entry> entries_;
  std::map<std::string, std::string> origins_;
};

/// Whether `path` is `parent` or lies below it ("a.b" below "a").
bool within(std::string_view path, std::string_view parent);

}  // namespace fbi::config
