#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace fbi::checkpoint {

/// Cuts a metrics.jsonl back to what a run at `step` had written: everything from the first line
/// with "step" > step on is removed, and so is an unfinished last line. The bytes before stay as
/// they are; the file is shortened in place, in one step, durably. Lines without a step stay with
/// what precedes them. Returns the bytes removed; 0 when the file does not exist. Throws DataError
/// when it can't be read and DiskError when it can't be shortened.
std::uint64_t cut_metrics(const std::filesystem::path& path, std::int64_t step);

/// The "step" of the last whole line that has one; none, too, when the file does not exist. Throws
/// DataError when it can't be read.
std::optional<std::int64_t> last_step(const std::filesystem::path& path);

}  // namespace fbi::checkpoint
