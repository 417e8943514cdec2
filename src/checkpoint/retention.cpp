#include "fbi/checkpoint/retention.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>

#include "checkpoint/temporary.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"
#include "fbi/formats/checkpoint_reader.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kPrefix = ".tmp-";

/// "-<host>-<pid>-<start>"
std::string suffix_of_process(std::int64_t pid) {
  return concat("-", host_name(), "-", pid, "-", process_start_ticks(pid));
}

/// Whether a temporary name belongs to a process that lives on this machine.
bool has_live_owner(const std::string& name) {
  const auto last = name.rfind('-');
  const auto before = last == std::string::npos || last == 0 ? last : name.rfind('-', last - 1);
  if (before == std::string::npos) return false;
  const std::int64_t pid = std::atoll(name.c_str() + before + 1);
  return pid > 0 && process_alive(pid) && name.ends_with(suffix_of_process(pid));
}

}  // namespace

fs::path temporary_path(const fs::path& checkpoints, const std::string& what) {
  return checkpoints / (std::string(kPrefix) + what + suffix_of_process(process_id()));
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    throw DiskError(
        concat("cannot rename ", from.string(), " to ", to.string(), ": ", error.message()));
  }
}

void create_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw DiskError(concat("cannot create ", folder.string(), ": ", error.message()));
}

void delete_folder(const fs::path& folder) {
  const fs::path doomed =
      temporary_path(folder.parent_path(), "delete-" + folder.filename().string());
  std::error_code error;
  fs::remove_all(doomed, error);
  rename_folder(folder, doomed);
  fs::remove_all(doomed, error);
  if (error) throw DiskError(concat("cannot delete ", doomed.string(), ": ", error.message()));
}

std::vector<std::int64_t> to_delete(std::vector<std::int64_t> valid_steps, std::int64_t keep) {
  const auto kept = static_cast<std::size_t>(std::max(keep, kFewestCheckpoints));
  if (valid_steps.size() <= kept) return {};
  std::sort(valid_steps.begin(), valid_steps.end());
  valid_steps.resize(valid_steps.size() - kept);
  return valid_steps;
}

void apply_retention(const fs::path& checkpoints, std::int64_t newest_step, std::int64_t keep) {
  std::map<std::int64_t, fs::path> valid;
  std::vector<std::int64_t> steps;
  for (const fs::path& path : formats::list_checkpoints(checkpoints)) {
    try {
      const std::int64_t step = formats::CheckpointReader(path, false).manifest().step;
      if (step <= newest_step && valid.emplace(step, path).second) steps.push_back(step);
    } catch (const Error&) {
      // Not usable, hence neither counted nor deleted; opening the newest reports it.
    }
  }
  for (const std::int64_t step : to_delete(steps, keep)) {
    try {
      delete_folder(valid.at(step));
    } catch (const DiskError& error) {
      log::warn("old checkpoint stays: ", error.what());
    }
  }
}

void remove_temporaries(const fs::path& checkpoints) {
  std::error_code error;
  std::vector<fs::path> stale;
  for (fs::directory_iterator entry(checkpoints, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(kPrefix) && !has_live_owner(name)) stale.push_back(entry->path());
  }
  for (const fs::path& path : stale) {
    fs::remove_all(path, error);
    if (error) log::warn("cannot remove ", path.string(), ": ", error.message());
  }
}

}  // namespace fbi::checkpoint
