#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace fbi {

/// What a container, or a service of systemd, may use of its machine.
struct CgroupLimits {
  std::optional<double> processors;
  std::optional<std::uint64_t> memory_bytes;
};

/// The smallest limits of the control groups that a process is in and of those around them, of both
/// versions of cgroups. `groups`: /proc/self/cgroup; `mount`: where the groups' files are.
CgroupLimits cgroup_limits(const std::filesystem::path& groups = "/proc/self/cgroup",
                           const std::filesystem::path& mount = "/sys/fs/cgroup");

}  // namespace fbi
