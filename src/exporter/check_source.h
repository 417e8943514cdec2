#pragma once

#include "fbi/config/run_config.h"
#include "fbi/formats/model_source.h"

namespace fbi::exporter {

/// formats::check_tensors, all scales included. Then DataError when layers with tied scales have
/// different ones.
void check_source(const formats::ModelSource& source, const config::ModelConfig& model);

}  // namespace fbi::exporter
