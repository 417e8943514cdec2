#pragma once

#include <cstdint>

#include "config/problems.h"
#include "fbi/config/run_config.h"

namespace fbi::config {

/// Adds every violated range and every violated rule between fields; rules about fields that are
/// already reported are left out.
void check_config(const RunConfig& config, std::int64_t world_size, Problems& problems);

}  // namespace fbi::config
