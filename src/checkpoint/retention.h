#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fbi::checkpoint {

/// Fewer valid checkpoints are never left by deleting.
inline constexpr std::int64_t kFewestCheckpoints = 2;

/// Which of the valid checkpoints (steps in any order) retention deletes, oldest first: of those
/// whose step is no multiple of `keep_every` (0: of all) all but the newest max(keep,
/// kFewestCheckpoints).
std::vector<std::int64_t> to_delete(std::vector<std::int64_t> valid_steps, std::int64_t keep,
                                    std::int64_t keep_every);

/// Deletes by that rule among the checkpoints of steps up to `newest_step`, counting as valid what
/// has its manifest and all files in their sizes (contents are not read again). A folder that can't
/// be deleted is reported through log::warn.
void apply_retention(const std::filesystem::path& checkpoints, std::int64_t newest_step,
                     std::int64_t keep, std::int64_t keep_every);

}  // namespace fbi::checkpoint
