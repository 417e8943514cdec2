#include "checkpoint/temporary.h"

#include <string_view>
#include <system_error>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/core/temporary.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kPrefix = ".tmp-";

}  // namespace

fs::path temporary_path(const fs::path& checkpoints, const std::string& what) {
  return own_temporary(checkpoints / (std::string(kPrefix) + what));
}

void rename_path(const fs::path& from, const fs::path& to) {
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
  rename_path(folder, doomed);
  fs::remove_all(doomed, error);
  if (error) throw DiskError(concat("cannot delete ", doomed.string(), ": ", error.message()));
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
