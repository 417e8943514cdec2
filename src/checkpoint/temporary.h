#pragma once

#include <filesystem>
#include <string>

namespace fbi::checkpoint {

/// Where this process prepares or dismantles a checkpoint: a folder beside it that no reader looks
/// at, whose name tells the process apart from all others: ".tmp-<what>-<host>-<pid>-<start>".
std::filesystem::path temporary_path(const std::filesystem::path& checkpoints,
                                     const std::string& what);

/// Creates a folder, and its parents, unless it is there. Throws DiskError.
void create_folder(const std::filesystem::path& folder);

/// Renames a folder to a temporary path, so that no reader meets it half deleted, then deletes it.
/// Throws DiskError.
void delete_folder(const std::filesystem::path& folder);

/// std::filesystem::rename with DiskError naming both ends.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes what killed processes left half written or half deleted; what belongs to a live process
/// of this machine stays. To be called with the run's lock held, so that no other machine is
/// writing. What can't be removed is reported through log::warn.
void remove_temporaries(const std::filesystem::path& checkpoints);

}  // namespace fbi::checkpoint
