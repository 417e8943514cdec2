#include "cli/output_check.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "fbi/core/error.h"

namespace fbi::cli {

namespace fs = std::filesystem;

void check_output_file(const std::string& option, const fs::path& file,
                       const std::vector<fs::path>& inputs) {
  const std::string place = concat("--", option, " ", file.string());
  std::error_code ignored;
  const fs::file_status status = fs::status(file, ignored);
  if (!file.has_filename() || fs::is_directory(status))
    throw UsageError(concat("--", option, ": expected the name of a file to write, found '",
                            file.string(), fs::is_directory(status) ? "', a folder" : "'"));
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw UsageError(concat(place, " is no regular file; choose another one"));
  for (const fs::path& input : inputs)
    if (fs::equivalent(file, input, ignored))
      throw UsageError(concat(place, " is also read (", input.string(),
                              ") and would be overwritten; choose another one"));
  const fs::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!fs::exists(folder, ignored))
    throw DiskError(
        concat(place, ": the folder ", folder.string(), " is missing: mkdir -p ", folder.string()));
  if (!fs::is_directory(folder, ignored))
    throw DiskError(concat(place, ": ", folder.string(), " is not a folder"));
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw DiskError(concat(place, ": cannot write to the folder ", folder.string(), ": ",
                           std::strerror(errno)));
}

void check_output(const Arguments& arguments, const std::string& option,
                  const std::vector<std::string>& input_options, std::vector<fs::path> inputs) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(arguments.text("model"), ignored))
    inputs.push_back(entry.path());
  for (const auto& name : input_options)
    for (const auto& value : arguments.list(name)) inputs.emplace_back(value);
  check_output_file(option, arguments.text(option), inputs);
}

}  // namespace fbi::cli
