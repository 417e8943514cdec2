#include "fbi/distill/teacher.h"
#include "fbi/estimate/estimate.h"

namespace fbi::estimate {
namespace {

bool is_spread(const config::RunConfig& config, int world_size) {
  return config.parallel.shard_teacher && world_size > 1;
}

}  // namespace

std::optional<TeacherPlan> stored_teacher(const config::RunConfig& config, int world_size,
                                          Processor processor) {
  if (config.objective.distill == 0) return std::nullopt;
  const auto folder = distill::check_teacher(config.teacher, config.model, config.train,
                                             is_spread(config, world_size));
  return plan_teacher(folder.config, config.teacher, folder.stored_dtype, processor);
}

TeacherPlan described_teacher(const config::RunConfig& config, const config::ModelConfig& teacher,
                              int world_size, Processor processor) {
  distill::check_teacher_fit(teacher, config.teacher, config.model, config.train,
                             is_spread(config, world_size));
  return plan_teacher(teacher, config.teacher, at::kHalf, processor);
}

}  // namespace fbi::estimate
