#include "cli/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

constexpr int kMostLevels = 64;  ///< of nesting: values are copied and printed recursively

/// The JSON in a text, which may have comments; discarded when it is broken or nested deeper.
nlohmann::json parse_shallow(std::string_view text) {
  bool deep = false;
  const auto within_levels = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    deep = deep || depth > kMostLevels;
    return depth <= kMostLevels;
  };
  auto json = nlohmann::json::parse(text, within_levels, /*allow_exceptions=*/false,
                                    /*ignore_comments=*/true);
  return deep ? nlohmann::json(nlohmann::json::value_t::discarded) : json;
}

// Of a panel, in pixels; a picture has two side by side.
constexpr double kPanelWidth = 450, kPanelHeight = 250;
constexpr double kLeft = 58, kRight = 16, kTop = 34, kBottom = 36;
constexpr std::size_t kColumns = 2;
constexpr std::array<const char*, 6> kColours{"#1f6fb4", "#d1495b", "#2e8b57",
                                              "#8a5cb8", "#c77f1a", "#4a4a4a"};

struct Axis {
  std::vector<double> ticks;  ///< rising; the first and the last are the ends
  bool log = false;

  /// 0 at the low end, 1 at the high one.
  double position(double value) const {
    const auto scaled = [&](double v) { return log ? std::log(v) : v; };
    const double low = scaled(ticks.front()), high = scaled(ticks.back());
    return (scaled(value) - low) / (high - low);
  }
};

/// Ticks at multiples of 1, 2 or 5 times a power of ten, about `count` of them.
Axis linear_axis(double low, double high, int count) {
  if (!(low < high)) {
    const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= margin;
    high += margin;
  }
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / power;
  const double step = (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10) * power;
  Axis axis;
  for (double k = std::floor(low / step); k <= std::ceil(high / step); ++k)
    axis.ticks.push_back(k * step);
  return axis;
}

/// Ticks at 1, 2 and 5 times the powers of ten, or at these alone where that were too many.
Axis log_axis(double low, double high) {
  std::vector<double> digits{1, 2, 5};
  if (high / low > 1e3) digits = {1};
  Axis axis{{}, true};
  for (double k = std::floor(std::log10(low)); axis.ticks.empty() || axis.ticks.back() < high; ++k)
    for (const double digit : digits)
      if (axis.ticks.empty() || axis.ticks.back() < high)
        axis.ticks.push_back(digit * std::pow(10, k));
  while (axis.ticks.size() > 2 && axis.ticks[1] <= low) axis.ticks.erase(axis.ticks.begin());
  if (axis.ticks.size() < 2) axis.ticks.push_back(axis.ticks.front() * 2);
  return axis;
}

std::string number(double value, int digits = 6) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*g", digits, std::abs(value) < 1e-12 ? 0.0 : value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '<'   ? "&lt;"
           : c == '>' ? "&gt;"
           : c == '&' ? "&amp;"
           : c == '"' ? "&quot;"
                      : std::string(1, c);
  return out;
}

/// The mean of each value and its neighbours, a fiftieth of the curve, or half of that where the
/// curve begins and ends: does not lag behind.
std::vector<double> smoothed(const std::vector<double>& values) {
  std::vector<double> sums{0};
  for (const double value : values) sums.push_back(sums.back() + value);
  const std::size_t reach = values.size() / 100;
  std::vector<double> out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t begin = i - std::min(i, reach), end = std::min(i + reach + 1, values.size());
    out.push_back((sums[end] - sums[begin]) / static_cast<double>(end - begin));
  }
  return out;
}

/// Maps data to the picture and draws into one panel whose corner is at `left`, `top`.
class PanelDrawing {
 public:
  PanelDrawing(const Panel& panel, double left, double top)
      : panel_(panel), left_(left), top_(top) {
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    for (const auto& series : panel.series) {
      for (const double x : series.x) x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      for (const double y : series.y)
        if (is_shown(y)) y_low = std::min(y_low, y), y_high = std::max(y_high, y);
    }
    x_ = linear_axis(x_low, x_high, 5);
    y_ = !panel.log || y_low > y_high ? linear_axis(y_low, y_high, 5) : log_axis(y_low, y_high);
  }

  std::string draw() {
    out_ = concat("<text x='", left_ + kLeft, "' y='", top_ + 20, "' class='title'>",
                  escaped(panel_.title), "</text>\n");
    draw_grid();
    for (std::size_t index = 0; index < panel_.series.size(); ++index) draw_series(index);
    return out_;
  }

 private:
  bool is_shown(double y) const { return !panel_.log || y > 0; }
  double right() const { return left_ + kPanelWidth - kRight; }
  double to_x(double x) const {
    return left_ + kLeft + x_.position(x) * (kPanelWidth - kLeft - kRight);
  }
  double to_y(double y) const {
    return top_ + kPanelHeight - kBottom - y_.position(y) * (kPanelHeight - kTop - kBottom);
  }

  void draw_grid() {
    for (const double y : y_.ticks)
      out_ += concat("<line x1='", left_ + kLeft, "' x2='", right(), "' y1='", to_y(y), "' y2='",
                     to_y(y), "' class='grid'/><text x='", left_ + kLeft - 8, "' y='", to_y(y) + 4,
                     "' text-anchor='end'>", number(y), "</text>\n");
    const double below = top_ + kPanelHeight - kBottom + 17;
    for (const double x : x_.ticks)
      out_ += concat("<text x='", to_x(x), "' y='", below, "' text-anchor='middle'>", number(x),
                     "</text>\n");
    out_ += concat("<text x='", right(), "' y='", below + 14, "' text-anchor='end'>",
                   panel_.x_label, "</text>\n");
  }

  void draw_line(const std::vector<double>& x, const std::vector<double>& y, const char* colour,
                 double opacity) {
    out_ += concat("<polyline fill='none' stroke='", colour, "' stroke-opacity='", opacity,
                   "' stroke-width='1.6' points='");
    // More points than pixels only make the file larger. The last one is always there.
    const std::size_t stride = std::max<std::size_t>(1, x.size() / 600);
    for (std::size_t i = (x.size() - 1) % stride; i < x.size(); i += stride) {
      if (!is_shown(y[i])) continue;
      char point[48];
      std::snprintf(point, sizeof point, "%.1f,%.1f ", to_x(x[i]), to_y(y[i]));
      out_ += point;
    }
    out_ += "'/>\n";
  }

  void draw_series(std::size_t index) {
    const Series& series = panel_.series[index];
    const char* colour = kColours[series.colour % kColours.size()];
    if (panel_.smooth) draw_line(series.x, series.y, colour, 0.25);
    const auto shown = panel_.smooth ? smoothed(series.y) : series.y;
    draw_line(series.x, shown, colour, 1);
    const double y = top_ + kTop + 12 + 16 * static_cast<double>(index);
    out_ += concat("<text x='", right() - 4, "' y='", y, "' text-anchor='end' style='fill:", colour,
                   "'>", escaped(series.name),
                   shown.empty() ? "" : concat(" ", number(shown.back(), 3)), "</text>\n");
  }

  const Panel& panel_;
  double left_, top_;
  Axis x_, y_;
  std::string out_;
};

/// Adds `key` of every line that has it, over the steps.
void add_series(Panel& panel, const std::string& name, const std::vector<nlohmann::json>& lines,
                const char* key, std::size_t colour) {
  Series series{name, {}, {}, colour};
  for (const auto& line : lines) {
    const auto found = line.find(key);
    if (found == line.end() || !found->is_number()) continue;
    series.x.push_back(line.at("step").get<double>());
    series.y.push_back(found->get<double>());
  }
  if (!series.x.empty()) panel.series.push_back(std::move(series));
}

std::vector<nlohmann::json> read_metrics(const std::filesystem::path& run) {
  const std::filesystem::path path =
      std::filesystem::is_directory(run) ? run / "metrics.jsonl" : run;
  std::ifstream file(path);
  if (!file)
    throw DataError(
        concat("cannot read ", path.string(), "; expected a run directory or a metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string text; std::getline(file, text);) {
    auto line = parse_shallow(text);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number()) {
      if (file.eof()) break;  // a line that is being written
      throw DataError(concat(path.string(), ":", lines.size() + 1, ": not a line of metrics"));
    }
    lines.push_back(std::move(line));
  }
  if (lines.empty()) throw DataError(concat(path.string(), " has no steps yet"));
  return lines;
}

std::string run_name(const std::filesystem::path& run) {
  const auto path = run.lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

}  // namespace

std::string render_svg(const std::string& title, const std::vector<Panel>& panels) {
  const std::size_t columns = std::min(kColumns, panels.size());
  const std::size_t rows = (panels.size() + kColumns - 1) / kColumns;
  constexpr double kHeading = 36;
  const double width = kPanelWidth * static_cast<double>(columns);
  const double height = kHeading + kPanelHeight * static_cast<double>(rows);
  std::string out =
      concat("<svg xmlns='http://www.w3.org/2000/svg' width='", width, "' height='", height,
             "' viewBox='0 0 ", width, " ", height,
             "'>\n<style>text{font:12px sans-serif;fill:#333}.title{font:bold 14px sans-serif}",
             ".grid{stroke:#ddd;stroke-width:1}</style>\n<rect width='100%' height='100%' ",
             "fill='white'/>\n<text x='", kLeft, "' y='26' style='font:bold 16px sans-serif'>",
             escaped(title), "</text>\n");
  for (std::size_t p = 0; p < panels.size(); ++p)
    out += PanelDrawing(panels[p], kPanelWidth * static_cast<double>(p % kColumns),
                        kHeading + kPanelHeight * static_cast<double>(p / kColumns))
               .draw();
  return out + "</svg>\n";
}

std::vector<Panel> run_panels(const std::vector<std::filesystem::path>& runs) {
  std::vector<Panel> panels{
      {"loss", "step", true, true, {}},
      {"gradient norm", "step", true, true, {}},
      {"sign flips per step (share of 1-bit weights)", "step", true, true, {}},
      {"learning rate", "step", false, false, {}}};
  constexpr std::array<const char*, 4> keys{"loss", "grad_norm", "flip_rate", "lr"};
  std::size_t colour = 0;
  for (const auto& run : runs) {
    const auto lines = read_metrics(run);
    const std::size_t own = colour++;
    const bool binarized =
        !lines.back().value("layer_flip_rates", nlohmann::json::object()).empty();
    for (std::size_t p = 0; p < panels.size(); ++p)
      if (p != 2 || binarized) add_series(panels[p], run_name(run), lines, keys[p], own);
    for (const auto& [key, name] : {std::pair("loss_next_token", ": next token"),
                                    std::pair("loss_distill", ": distillation")}) {
      const auto part = lines.back().value(key, nlohmann::json());
      const bool is_the_loss = part == lines.back().value("loss", nlohmann::json());
      if (part.is_number() && !is_the_loss)
        add_series(panels[0], run_name(run) + name, lines, key, colour++);
    }
  }
  std::erase_if(panels, [](const Panel& panel) { return panel.series.empty(); });
  return panels;
}

}  // namespace fbi::cli
