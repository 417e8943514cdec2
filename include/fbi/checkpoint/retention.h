#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fbi::checkpoint {

/// Fewer valid checkpoints are never left by deleting.
inline constexpr std::int64_t kFewestCheckpoints = 2;

/// Which of the valid checkpoints (steps in any order) retention deletes: all but the newest
/// max(keep, kFewestCheckpoints), oldest first.
std::vector<std::int64_t> to_delete(std::vector<std::int64_t> valid_steps, std::int64_t keep);

/// Deletes by that rule among the checkpoints of steps up to `newest_step`, counting as valid what
/// has its manifest and all files in their sizes (contents are not read again). A folder that can't
/// be deleted is reported through log::warn.
void apply_retention(const std::filesystem::path& checkpoints, std::int64_t newest_step,
                     std::int64_t keep);

/// Removes what killed processes left half written or half deleted; what belongs to a live process
/// of this machine stays. To be called with the run's lock held, so that no other machine is
/// writing. What can't be removed is reported through log::warn.
void remove_temporaries(const std::filesystem::path& checkpoints);

}  // namespace fbi::checkpoint
