#include "fbi/distill/teacher.h"
#include "fbi/train/estimate.h"

namespace fbi::train {

std::optional<TeacherPlan> stored_teacher(const config::RunConfig& config, int world_size,
                                          Processor processor) {
  if (config.objective.distill == 0) return std::nullopt;
  const auto folder = distill::check_teacher(config.teacher, config.model, config.train,
                                             config.parallel.shard_teacher && world_size > 1);
  const auto stored = folder.stored_dtype;
  const char* name = stored == at::kFloat ? "fp32" : stored == at::kHalf ? "fp16" : "bf16";
  return plan_teacher(folder.config, config.teacher, name, processor);
}

}  // namespace fbi::train
