#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::infer {

/// Passes text on as soon as no stop string can begin in it any more.
class StopStrings {
 public:
  /// UsageError for a stop string that is empty or starts inside a UTF-8 character.
  StopStrings(std::vector<std::string> stop, std::function<void(std::string_view)> emit);

  /// `text` must be whole UTF-8 characters. True when a stop string is complete: all text before
  /// the first one has been emitted, and nothing more will be.
  bool push(std::string_view text);
  /// The end of the text: emits what was held back.
  void finish();

 private:
  void emit(std::size_t count);

  std::vector<std::string> stop_;
  std::function<void(std::string_view)> emit_;
  std::string pending_;
};

}  // namespace fbi::infer
