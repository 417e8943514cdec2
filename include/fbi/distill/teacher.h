#pragma once

#include <memory>

#include "fbi/config/run_config.h"
#include "fbi/nn/llama.h"

namespace fbi::distill {

/// Reads the teacher and checks that it fits the student: same vocabulary, positions for train.seq_len (UsageError naming both
/// values). It runs without gradient in teacher.dtype, or in the dtype of its own files (fp16 on a CPU is multiplied in fp32).
std::unique_ptr<nn::LlamaForCausalLM> load_teacher(const config::TeacherConfig& teacher, const config::ModelConfig& student,
                                                   const config::TrainConfig& train, at::Device device);

/// The checks alone: the teacher's architecture; no weights are read.
config::ModelConfig check_teacher(const config::TeacherConfig& teacher, const config::ModelConfig& student,
                                  const config::TrainConfig& train);

}  // namespace fbi::distill
