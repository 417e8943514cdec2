#include "core/cgroup.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace fbi {
namespace {

namespace fs = std::filesystem;

/// The first number of a file; none where it is absent, or says "max".
std::optional<double> number_in(const fs::path& file) {
  std::ifstream stream(file);
  double value = 0;
  return stream >> value ? std::optional(value) : std::nullopt;
}

template <class T>
void lower(std::optional<T>& limit, T value) {
  limit = limit ? std::min(*limit, value) : value;
}

void take_limits(const fs::path& group, CgroupLimits& limits) {
  double quota = 0, period = 0;
  std::ifstream maximum(group / "cpu.max");  // "150000 100000", or "max 100000"
  if (!(maximum >> quota >> period)) {       // version 1; -1: no limit
    quota = number_in(group / "cpu.cfs_quota_us").value_or(0);
    period = number_in(group / "cpu.cfs_period_us").value_or(0);
  }
  if (quota > 0 && period > 0) lower(limits.processors, quota / period);
  for (const char* name : {"memory.max", "memory.limit_in_bytes"}) {
    const auto bytes = number_in(group / name);
    if (bytes && *bytes > 0 && *bytes < 0x1p62)  // version 1 writes the largest page-sized number
      lower(limits.memory_bytes, static_cast<std::uint64_t>(*bytes));
  }
}

}  // namespace

CgroupLimits cgroup_limits(const fs::path& groups, const fs::path& mount) {
  CgroupLimits limits;
  std::ifstream lines(groups);
  // "0::/a/b" in version 2, "4:cpu,cpuacct:/a/b" in version 1, which has a folder per controller.
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1);
    fs::path group = fs::path(line.substr(second + 1)).relative_path();
    while (true) {
      take_limits(mount / controllers / group, limits);
      if (group.empty()) break;
      group = group.parent_path();
    }
  }
  return limits;
}

}  // namespace fbi
