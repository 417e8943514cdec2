#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fbi::cli {

/// One curve: y over x, with a name for the legend.
struct Series {
  std::string name;
  std::vector<double> x, y;
  std::size_t colour = 0;  ///< the same number is the same colour in every panel
};

struct Panel {
  std::string title;
  std::string x_label;
  bool smooth = false;  ///< draw raw values faintly and over them their moving average, whose end
                        ///< the legend shows
  bool log = false;     ///< logarithmic; leaves out what is not positive
  std::vector<Series> series;
};

/// A self-contained SVG picture with the panels two in a row.
std::string render_svg(const std::string& title, const std::vector<Panel>& panels);

/// The panels of training runs: losses, gradient norm, sign-flip rate, learning rate, from their
/// metrics.jsonl. DataError naming file and line when one can't be read.
std::vector<Panel> run_panels(const std::vector<std::filesystem::path>& runs);

}  // namespace fbi::cli
