#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

/// What the machine and this process have.
namespace fbi {

/// Processors this process may use: its affinity mask, cut to the CPU quota of its cgroup; at
/// least 1.
int usable_processors();
std::uint64_t resident_bytes();       ///< physical memory of this process now; 0 when unknown
std::uint64_t peak_resident_bytes();  ///< its maximum so far; 0 when unknown
/// Of the machine, or of this container where that has less; 0 when unknown.
std::uint64_t usable_memory_bytes();
/// Of that, what neither this process nor others of the machine have taken.
std::uint64_t available_memory_bytes();
double process_cpu_seconds();  ///< processor time of all threads of this process so far
/// Memory that is freed stays with the process for what is allocated next. Every step of training
/// allocates the same tensors anew; to hand them back and ask for them again costs a page fault per
/// 4 KB (5 to 8 % of a small model's step). Call first. Other allocators than glibc's do so by
/// themselves.
void keep_freed_memory();
/// Returns to the system what malloc keeps of freed memory, where it is glibc's.
void give_back_freed_memory();
std::string allocator_name();  ///< what malloc is here, e.g. "gperftools 2.10" (tcmalloc)
/// `path`, or what of the way to it is there already; absolute.
std::filesystem::path nearest_existing(const std::filesystem::path& path);
/// Bytes an ordinary user can still write to the file system that holds `path`, or would hold it:
/// that of nearest_existing(path). DiskError when that fails.
std::uint64_t free_disk_bytes(const std::filesystem::path& path);
std::string host_name();
std::int64_t process_id();
/// Whether a process of this machine exists and runs (a zombie does not).
bool process_alive(std::int64_t pid);
/// When a process started, in clock ticks since boot; 0 when there is none. With the pid it names a
/// process for good, because pids are used again, in containers soon.
std::uint64_t process_start_ticks(std::int64_t pid);

}  // namespace fbi
