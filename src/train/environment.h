#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/data/training_data.h"

namespace fbi::train {

/// environment.json: program, libraries, machine, device and command line of the last start;
/// measured rates of matrix products by their type, where there are any.
std::string environment_json(const config::RunConfig& config, const std::string& command_line,
                             at::Device device, const std::map<std::string, double>& matrix_rates);

/// Copies the tokenizer that lies beside the training data, or of JSON lines the teacher's, if any,
/// into the run directory: evaluation, generation and export of the run need it.
void copy_tokenizer(const config::RunConfig& config, const data::TrainingData& data,
                    const std::filesystem::path& run_directory);

}  // namespace fbi::train
