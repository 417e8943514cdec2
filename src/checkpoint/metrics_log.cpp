#include "fbi/checkpoint/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::checkpoint {
namespace {

/// The "step" of one line. Runs write it first, so that a log of gigabytes need not be parsed as a
/// whole.
std::optional<std::int64_t> step_of(std::string_view line) {
  constexpr std::string_view kStart = "{\"step\":";
  std::int64_t step = 0;
  if (line.starts_with(kStart)) {
    const auto [stop, error] =
        std::from_chars(line.data() + kStart.size(), line.data() + line.size(), step);
    if (error == std::errc{} && stop != line.data() + line.size() &&
        (*stop == ',' || *stop == '}')) {
      return step;
    }
  }
  const auto parsed = nlohmann::json::parse(line, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("step")) return std::nullopt;
  const auto& value = parsed["step"];
  return value.is_number_integer() ? std::optional(value.get<std::int64_t>()) : std::nullopt;
}

/// Length of the longest prefix of whole lines up to `step`.
std::size_t kept_bytes(std::string_view text, std::int64_t step) {
  std::size_t kept = 0;
  for (;;) {
    const auto end = text.find('\n', kept);
    if (end == std::string_view::npos) return kept;
    const auto found = step_of(text.substr(kept, end - kept));
    if (found && *found > step) return kept;
    kept = end + 1;
  }
}

void shorten(const std::filesystem::path& path, std::size_t bytes) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool done = descriptor >= 0 && ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 &&
                    fsync(descriptor) == 0;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!done) {
    throw DiskError(
        concat("cannot cut ", path.string(), " to ", bytes, " bytes: ", std::strerror(error)));
  }
}

}  // namespace

std::uint64_t cut_metrics(const std::filesystem::path& path, std::int64_t step) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return 0;
  std::size_t size = 0, kept = 0;
  {
    const MappedFile file(path);  // unmapped before the file gets shorter
    const auto bytes = file.bytes();
    size = bytes.size();
    kept = kept_bytes({reinterpret_cast<const char*>(bytes.data()), size}, step);
  }
  if (kept < size) shorten(path, kept);
  return size - kept;
}

std::optional<std::int64_t> last_step(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const MappedFile file(path);
  std::string_view text{reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  text = text.substr(0, text.rfind('\n') + 1);  // nothing where there is no whole line
  while (!text.empty()) {
    text.remove_suffix(1);
    const auto begin = text.rfind('\n') + 1;  // 0 in front of the first line
    if (const auto step = step_of(text.substr(begin))) return step;
    text = text.substr(0, begin);
  }
  return std::nullopt;
}

}  // namespace fbi::checkpoint
