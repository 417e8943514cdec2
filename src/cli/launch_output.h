#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "cli/launch_process.h"

namespace fbi::cli {

/// What one rank prints into a pipe, cut into lines, which are shown with a prefix or kept for
/// later.
class LineStream {
 public:
  /// `target`: descriptor that lines go to at once; -1: only the last lines are kept.
  LineStream(Descriptor pipe, std::string prefix, int target);
  int descriptor() const { return pipe_.get(); }
  bool open() const { return pipe_.open(); }
  /// Takes what is there without waiting; at the end of the pipe closes it.
  void read();
  /// Shows the kept lines.
  void show_kept(int target) const;

 private:
  void take(std::string_view text);
  void finish_line();

  Descriptor pipe_;
  std::string prefix_, line_;
  int target_;
  std::deque<std::string> kept_;
};

}  // namespace fbi::cli
