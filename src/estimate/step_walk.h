#pragma once

#include "fbi/estimate/estimate.h"

namespace fbi::estimate {

/// Memory of one rank over its last micro-step and the update, found by walking through
/// distill::load_teacher, train::Trainer::micro_step and optim::AdamW in the order of their code.
MemoryEstimate walk_step(const config::RunConfig& config, const std::optional<TeacherPlan>& teacher,
                         int world_size, Processor processor);

/// Whether the student's forward products with signs are in 8-bit floats.
bool multiplies_in_fp8(const config::RunConfig& config);

}  // namespace fbi::estimate
