#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::serve {

/// Keys of which a request must bring one. They stand in no message and no log.
class ApiKeys {
 public:
  /// One per line; blank lines and those that begin with # do not count. UsageError when the file
  /// cannot be read, holds no key, or a line (named by its number) is none.
  explicit ApiKeys(const std::filesystem::path& file);

  std::size_t size() const { return keys_.size(); }
  /// Whether the value of a header "Authorization" is "Bearer " and one of the keys. The time that
  /// it takes does not tell how much of a key was right.
  bool admit(std::string_view authorization) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace fbi::serve
