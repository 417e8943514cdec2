#include "checkpoint/retention.h"

#include <algorithm>
#include <map>

#include "checkpoint/temporary.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/formats/checkpoint_reader.h"

namespace fbi::checkpoint {

namespace fs = std::filesystem;

std::vector<std::int64_t> to_delete(std::vector<std::int64_t> valid_steps, std::int64_t keep,
                                    std::int64_t keep_every) {
  if (keep_every > 0)
    std::erase_if(valid_steps, [&](std::int64_t step) { return step % keep_every == 0; });
  const auto kept = static_cast<std::size_t>(std::max(keep, kFewestCheckpoints));
  if (valid_steps.size() <= kept) return {};
  std::sort(valid_steps.begin(), valid_steps.end());
  valid_steps.resize(valid_steps.size() - kept);
  return valid_steps;
}

void apply_retention(const fs::path& checkpoints, std::int64_t newest_step, std::int64_t keep,
                     std::int64_t keep_every) {
  std::map<std::int64_t, fs::path> valid;
  std::vector<std::int64_t> steps;
  std::vector<fs::path> all;
  try {
    all = formats::list_checkpoints(checkpoints);
  } catch (const Error& error) {  // what was just saved is safe
    log::warn("old checkpoints stay: ", error.what());
  }
  for (const fs::path& path : all) {
    try {
      const std::int64_t step = formats::CheckpointReader(path, false).manifest().step;
      if (step <= newest_step && valid.emplace(step, path).second) steps.push_back(step);
    } catch (const Error&) {
      // Not usable, hence neither counted nor deleted; opening the newest reports it.
    }
  }
  for (const std::int64_t step : to_delete(steps, keep, keep_every)) {
    try {
      delete_folder(valid.at(step));
    } catch (const DiskError& error) {
      log::warn("old checkpoint stays: ", error.what());
    }
  }
}

}  // namespace fbi::checkpoint
