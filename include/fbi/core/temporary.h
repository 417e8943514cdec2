#pragma once

#include <filesystem>
#include <string_view>

/// Names under which a process prepares what gets its final name at the end: other processes that
/// do the same work at the same time have other ones.
namespace fbi {

/// `prefix` + "-<host>-<pid>-<start>", which no other process has.
std::filesystem::path own_temporary(const std::filesystem::path& prefix);

/// The absolute path, without a slash at its end.
std::filesystem::path plain_path(const std::filesystem::path& path);

/// For a folder that is made under another name and then renamed to plain_path `path`: UsageError
/// if a rename could not replace what is there although it is an empty folder, a link or a place at
/// which something is mounted.
void require_renamable(const std::filesystem::path& path);

/// Whether a name ends as own_temporary's of a process that lives on this machine do.
bool has_live_owner(std::string_view name);

/// Removes the files and folders own_temporary(prefix) of processes of this machine that are gone;
/// what belongs to a live process, or to another machine, stays. What can't be removed stays, too.
void remove_dead_temporaries(const std::filesystem::path& prefix);

}  // namespace fbi
