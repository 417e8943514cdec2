#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/verb.h"

namespace fbi::cli {

/// Finds before long work what writing the file of an option would find at its end. UsageError for
/// no name, a folder, what is no regular file, and one of `inputs` (those that are not there don't
/// count); DiskError for a folder that is missing or not writable.
void check_output_file(const std::string& option, const std::filesystem::path& file,
                       const std::vector<std::filesystem::path>& inputs);

/// The same for a verb that runs the model in the folder of --model: that folder's files and those
/// of `input_options` are inputs, too.
void check_output(const Arguments& arguments, const std::string& option,
                  const std::vector<std::string>& input_options,
                  std::vector<std::filesystem::path> inputs = {});

}  // namespace fbi::cli
