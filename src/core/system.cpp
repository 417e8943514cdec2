#include "fbi/core/system.h"

#include <gnu/libc-version.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/cgroup.h"
#include "fbi/core/error.h"

/// Of tcmalloc (gperftools/tcmalloc.h); null where another allocator serves.
extern "C" const char* tc_version(int* major, int* minor, const char** patch) __attribute__((weak));

namespace fbi {
namespace {

// The fields of /proc/PID/stat after the command, which may itself hold blanks and brackets: field
// 3 (state) comes first.
std::istringstream stat_after_command(std::int64_t pid) {
  std::ifstream file(concat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(file, line);
  const auto bracket = line.rfind(')');
  return std::istringstream(bracket == std::string::npos ? "" : line.substr(bracket + 1));
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  if (const auto limit = cgroup_limits().processors)
    count = std::min(count, static_cast<int>(std::lround(*limit)));
  return std::max(1, count);
}

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all_pages = 0, resident_pages = 0;
  if (!(file >> all_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t usable_memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || size <= 0) return 0;
  const auto physical = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(size);
  return std::min(physical, cgroup_limits().memory_bytes.value_or(physical));
}

std::uint64_t available_memory_bytes() {
  const std::uint64_t usable = usable_memory_bytes(), own = resident_bytes();
  const std::uint64_t left = usable > own ? usable - own : 0;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::uint64_t kibibytes = 0;
    if (!line.starts_with("MemAvailable:")) continue;
    if (std::istringstream(line.substr(13)) >> kibibytes) return std::min(left, kibibytes * 1024);
  }
  return left;
}

double process_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::uint64_t peak_resident_bytes() {
  // Not getrusage: its maximum is inherited from the program that called exec.
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("VmHWM:")) continue;
    std::uint64_t kibibytes = 0;
    std::istringstream(line.substr(6)) >> kibibytes;
    return kibibytes * 1024;
  }
  return 0;
}

std::filesystem::path nearest_existing(const std::filesystem::path& path) {
  std::error_code ignored;
  auto existing = std::filesystem::absolute(path, ignored);
  while (!std::filesystem::exists(existing, ignored) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  return existing;
}

std::uint64_t free_disk_bytes(const std::filesystem::path& path) {
  const auto folder = nearest_existing(path);
  struct statvfs info = {};
  if (statvfs(folder.c_str(), &info) != 0) {
    throw DiskError(
        concat("cannot ask for the free space of ", folder.string(), ": ", std::strerror(errno)));
  }
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

std::int64_t process_id() {
  return getpid();
}

bool process_alive(std::int64_t pid) {
  if (pid <= 0) return false;
  if (kill(static_cast<pid_t>(pid), 0) != 0 && errno != EPERM) return false;
  char state = 0;
  stat_after_command(pid) >> state;
  return state != 'Z' && state != 'X';
}

std::uint64_t process_start_ticks(std::int64_t pid) {
  auto fields = stat_after_command(pid);
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  std::uint64_t ticks = 0;
  fields >> ticks;
  return ticks;
}

void keep_freed_memory() {
#ifdef M_MMAP_THRESHOLD  // glibc
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

void give_back_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

std::string allocator_name() {
  if (tc_version) return tc_version(nullptr, nullptr, nullptr);
#ifdef __GLIBC__
  return std::string("glibc ") + gnu_get_libc_version();
#else
  return "";
#endif
}

}  // namespace fbi
