#include "fbi/core/temporary.h"

#include <sys/stat.h>

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/system.h"

namespace fbi {
namespace {

namespace fs = std::filesystem;

struct Owner {
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};

/// Of "<pid>-<start>".
std::optional<Owner> parse_owner(std::string_view text) {
  Owner owner;
  const char* const end = text.data() + text.size();
  const auto pid = std::from_chars(text.data(), end, owner.pid);
  if (pid.ec != std::errc() || pid.ptr == end || *pid.ptr != '-') return std::nullopt;
  const auto start = std::from_chars(pid.ptr + 1, end, owner.start_ticks);
  if (start.ec != std::errc() || start.ptr != end || owner.pid <= 0) return std::nullopt;
  return owner;
}

bool owner_lives(const Owner& owner) {
  return process_alive(owner.pid) && process_start_ticks(owner.pid) == owner.start_ticks;
}

}  // namespace

fs::path own_temporary(const fs::path& prefix) {
  fs::path path = prefix;
  path += concat("-", host_name(), "-", process_id(), "-", process_start_ticks(process_id()));
  return path;
}

fs::path plain_path(const fs::path& path) {
  const fs::path plain = fs::absolute(path).lexically_normal();
  return plain.has_filename() ? plain : plain.parent_path();
}

void require_renamable(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_symlink(path, ignored))
    throw UsageError(concat(path.string(), " is a link; name the folder that is to be made"));
  struct stat own, parent;
  if (stat(path.c_str(), &own) == 0 && stat(path.parent_path().c_str(), &parent) == 0 &&
      own.st_dev != parent.st_dev && S_ISDIR(own.st_mode)) {
    throw UsageError(concat(path.string(),
                            " is where a disk is mounted; name a folder inside it, which is made"));
  }
}

bool has_live_owner(std::string_view name) {
  const std::string host = concat("-", host_name(), "-");
  const auto at = name.rfind(host);
  if (at == std::string_view::npos) return false;
  const auto owner = parse_owner(name.substr(at + host.size()));
  return owner && owner_lives(*owner);
}

void remove_dead_temporaries(const fs::path& prefix) {
  const std::string start = concat(prefix.filename().string(), "-", host_name(), "-");
  const fs::path folder = prefix.has_parent_path() ? prefix.parent_path() : ".";
  std::error_code error;
  std::vector<fs::path> dead;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(start)) continue;
    const auto owner = parse_owner(std::string_view(name).substr(start.size()));
    if (owner && !owner_lives(*owner)) dead.push_back(entry->path());
  }
  for (const fs::path& path : dead) fs::remove_all(path, error);
}

}  // namespace fbi
