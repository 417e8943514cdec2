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

constexpr double kWidth = 860, kPanelHeight = 260, kLeft = 70, kRight = 36, kTop = 34, kBottom = 40;
constexpr std::array<const char*, 6> kColours{"#1f6fb4", "#d1495b", "#2e8b57", "#8a5cb8", "#c77f1a", "#4a4a4a"};

struct Axis {
  double low = 0, high = 1, step = 1;
};

/// Ticks at 1, 2 or 5 times a power of ten, about `count` of them.
Axis nice_axis(double low, double high, int count) {
  if (!(low < high)) {
    const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= margin;
    high += margin;
  }
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / power;
  const double step = (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10) * power;
  return {std::floor(low / step) * step, std::ceil(high / step) * step, step};
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", std::abs(value) < 1e-12 ? 0.0 : value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

std::vector<double> moving_average(const std::vector<double>& values) {
  std::vector<double> out;
  const double keep = 1.0 - 1.0 / std::max<double>(1.0, static_cast<double>(values.size()) / 50.0);
  double average = values.empty() ? 0 : values.front();
  for (const double value : values) out.push_back(average = keep * average + (1 - keep) * value);
  return out;
}

/// Maps data to the picture and draws into one panel whose upper edge is at `top`.
class PanelDrawing {
 public:
  PanelDrawing(const Panel& panel, double top) : panel_(panel), top_(top) {
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    for (const auto& series : panel.series) {
      for (const double x : series.x) x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      for (const double y : series.y) y_low = std::min(y_low, y), y_high = std::max(y_high, y);
    }
    x_ = nice_axis(x_low, x_high, 8);
    y_ = nice_axis(y_low, y_high, 5);
  }

  std::string draw() {
    out_ = concat("<text x='", kLeft, "' y='", top_ + 20, "' class='title'>", escaped(panel_.title), "</text>\n");
    draw_grid();
    for (std::size_t index = 0; index < panel_.series.size(); ++index) draw_series(index);
    return out_;
  }

 private:
  double to_x(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double to_y(double y) const {
    return top_ + kPanelHeight - kBottom - (y - y_.low) / (y_.high - y_.low) * (kPanelHeight - kTop - kBottom);
  }

  void draw_grid() {
    for (double y = y_.low; y <= y_.high + y_.step / 2; y += y_.step)
      out_ += concat("<line x1='", kLeft, "' x2='", kWidth - kRight, "' y1='", to_y(y), "' y2='", to_y(y), "' class='grid'/><text x='",
                     kLeft - 8, "' y='", to_y(y) + 4, "' text-anchor='end'>", number(y), "</text>\n");
    for (double x = x_.low; x <= x_.high + x_.step / 2; x += x_.step)
      out_ += concat("<text x='", to_x(x), "' y='", to_y(y_.low) + 17, "' text-anchor='middle'>", number(x), "</text>\n");
    out_ += concat("<text x='", kWidth - kRight, "' y='", to_y(y_.low) + 33, "' text-anchor='end'>", panel_.x_label, "</text>\n");
  }

  void draw_line(const std::vector<double>& x, const std::vector<double>& y, const char* colour, double opacity) {
    out_ += concat("<polyline fill='none' stroke='", colour, "' stroke-opacity='", opacity, "' stroke-width='1.6' points='");
    const std::size_t stride = std::max<std::size_t>(1, x.size() / 2000);  // more points than pixels only make the file larger
    for (std::size_t i = 0; i < x.size(); i += stride) {
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
    draw_line(series.x, panel_.smooth ? moving_average(series.y) : series.y, colour, 1);
    const double y = top_ + kTop + 12 + 16 * static_cast<double>(index);
    out_ += concat("<text x='", kWidth - kRight - 8, "' y='", y, "' text-anchor='end' style='fill:", colour, "'>", escaped(series.name),
                   series.y.empty() ? std::string() : " " + number(series.y.back()), "</text>\n");
  }

  const Panel& panel_;
  double top_;
  Axis x_, y_;
  std::string out_;
};

/// Adds `key` of every line that has it, over the steps.
void add_series(Panel& panel, const std::string& name, const std::vector<nlohmann::json>& lines, const char* key,
                std::size_t colour) {
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
  const std::filesystem::path path = std::filesystem::is_directory(run) ? run / "metrics.jsonl" : run;
  std::ifstream file(path);
  if (!file) throw DataError(concat("cannot read ", path.string(), "; expected a run directory or a metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string text; std::getline(file, text);) {
    auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
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
  const double height = 40 + kPanelHeight * static_cast<double>(panels.size());
  std::string out = concat("<svg xmlns='http://www.w3.org/2000/svg' width='", kWidth, "' height='", height, "' viewBox='0 0 ", kWidth, " ",
                           height, "'>\n<style>text{font:12px sans-serif;fill:#333}.title{font:bold 14px sans-serif}",
                           ".grid{stroke:#ddd;stroke-width:1}</style>\n<rect width='100%' height='100%' fill='white'/>\n",
                           "<text x='", kLeft, "' y='26' style='font:bold 16px sans-serif'>", escaped(title), "</text>\n");
  double top = 36;
  for (const auto& panel : panels) {
    out += PanelDrawing(panel, top).draw();
    top += kPanelHeight;
  }
  return out + "</svg>\n";
}

std::vector<Panel> run_panels(const std::vector<std::filesystem::path>& runs) {
  std::vector<Panel> panels{{"loss", "step", true, {}},
                            {"gradient norm", "step", true, {}},
                            {"sign flips per step (share of binarized weights)", "step", true, {}},
                            {"learning rate", "step", false, {}}};
  constexpr std::array<const char*, 4> keys{"loss", "grad_norm", "flip_rate", "lr"};
  std::size_t colour = 0;
  for (const auto& run : runs) {
    const auto lines = read_metrics(run);
    const std::size_t own = colour++;
    const bool binarized = !lines.back().value("layer_flip_rates", nlohmann::json::object()).empty();
    for (std::size_t p = 0; p < panels.size(); ++p)
      if (p != 2 || binarized) add_series(panels[p], run_name(run), lines, keys[p], own);
    for (const auto& [key, name] : {std::pair("loss_next_token", ": next token"), std::pair("loss_distill", ": distillation")}) {
      const auto part = lines.back().value(key, nlohmann::json());
      const bool is_the_loss = part == lines.back().value("loss", nlohmann::json());
      if (part.is_number() && !is_the_loss) add_series(panels[0], run_name(run) + name, lines, key, colour++);
    }
  }
  std::erase_if(panels, [](const Panel& panel) { return panel.series.empty(); });
  return panels;
}

}  // namespace fbi::cli
