#include "fbi/core/human.h"

#include <cmath>
#include <cstdio>
#include <span>

namespace fbi {
namespace {

// "%.1f" of the value in the largest unit that leaves it at least 1; whole numbers below the first
// unit.
std::string scaled(double value, std::span<const char* const> units) {
  std::size_t unit = 0;
  // 999.95 would print as 1000.0.
  while (unit + 1 < units.size() && value >= (unit == 0 ? 1000.0 : 999.95)) {
    value /= 1000;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 && value == std::floor(value) ? "%.0f%s" : "%.1f%s",
                value, units[unit]);
  return text;
}

constexpr const char* kCountUnits[] = {"", "K", "M", "B", "T"};

}  // namespace

std::string format_bytes(std::int64_t bytes) {
  static constexpr const char* kUnits[] = {" B", " KB", " MB", " GB", " TB", " PB"};
  return scaled(static_cast<double>(bytes), kUnits);
}

std::string format_count(std::int64_t count) {
  return scaled(static_cast<double>(count), kCountUnits);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  char text[64];
  if (seconds < 59.95) {
    std::snprintf(text, sizeof text, "%.1fs", seconds);
    return text;
  }
  const auto whole = static_cast<long long>(std::llround(seconds));
  const long long minutes = whole / 60, hours = minutes / 60, days = hours / 24;
  if (days > 0) {
    std::snprintf(text, sizeof text, "%lldd%02lldh", days, hours % 24);
  } else if (hours > 0) {
    std::snprintf(text, sizeof text, "%lldh%02lldm", hours, minutes % 60);
  } else {
    std::snprintf(text, sizeof text, "%lldm%02llds", minutes, whole % 60);
  }
  return text;
}

std::string format_rate(double per_second, std::string_view unit) {
  if (!std::isfinite(per_second) || per_second < 0) return "?";
  return scaled(per_second, kCountUnits) + " " + std::string(unit) + "/s";
}

}  // namespace fbi
