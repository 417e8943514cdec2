#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/distributed/row_exchange.h"
#include "fbi/formats/model_source.h"
#include "fbi/nn/llama.h"
#include "fbi/nn/model_folder.h"
#include "fbi/nn/weights.h"

namespace fbi::distill {

/// The model to learn from, without gradient. It is whole on every rank, or its decoder layers are
/// spread over the ranks by rows and gathered one by one while they are used (embedding, head and
/// norms stay whole).
class Teacher {
 public:
  /// A whole one.
  explicit Teacher(std::unique_ptr<nn::LlamaForCausalLM> model) : model_(std::move(model)) {}
  /// One spread over the ranks of `communicator`, read matrix by matrix from `weights`. The model's
  /// layers have no values yet (LlamaOptions::allocate_layers false). Bit for bit the same hidden
  /// states as a whole one.
  Teacher(std::unique_ptr<nn::LlamaForCausalLM> model, const formats::ModelSource& weights,
          distributed::Communicator& communicator);

  nn::LlamaForCausalLM& model() { return *model_; }
  /// Of a batch the layers take so many samples at a time; 0: all.
  void set_micro_batch(std::int64_t samples) { micro_batch_ = samples; }
  /// After the final norm, fp32 [B, S, D] for ids int64 [B, S]. Collective when spread.
  at::Tensor hidden_states(const at::Tensor& ids);
  /// All weights that it holds on this rank; some more than once.
  std::vector<at::Tensor> tensors() const;

 private:
  distributed::RowGather start_gathering(std::size_t layer, int buffer);
  void point_slots(std::size_t layer, int buffer);
  void take_layer(std::size_t layer, std::optional<distributed::RowGather>& under_way);
  at::Tensor forward_stage(std::int64_t stage, const at::Tensor& x, const nn::RotaryTable& table);

  std::unique_ptr<nn::LlamaForCausalLM> model_;
  std::int64_t micro_batch_ = 0;
  distributed::Communicator* communicator_ = nullptr;  ///< null: whole
  std::vector<std::vector<at::Tensor>> own_rows_;      ///< [layer][matrix]
  std::vector<at::Tensor> whole_[2];  ///< [matrix] of the layer in use and of the next one
};

/// Reads the teacher and checks that it fits the student: same vocabulary, positions for
/// train.seq_len (UsageError naming both values). It runs in its teacher_dtypes; where
/// teacher.dtype is fp8 it is ready for store_as_fp8 and the device has been checked. `shard`
/// spreads it over the ranks.
std::unique_ptr<Teacher> load_teacher(const config::TeacherConfig& teacher,
                                      const config::ModelConfig& student,
                                      const config::TrainConfig& train,
                                      distributed::Communicator& communicator, bool shard);

/// The types in which a teacher's weights are held and multiplied.
struct TeacherDtypes {
  at::ScalarType weights, compute;
};

/// By teacher.dtype (`chosen`), or that of its files where this is empty. What a CPU holds in fp16
/// it multiplies in fp32; of fp8 (fp8_teacher.h) these are the types of what stays.
TeacherDtypes teacher_dtypes(const std::string& chosen, at::ScalarType stored, bool on_gpu);

/// The checks of a teacher's architecture alone. `shard`: it is to be spread over ranks.
void check_teacher_fit(const config::ModelConfig& teacher, const config::TeacherConfig& settings,
                       const config::ModelConfig& student, const config::TrainConfig& train,
                       bool shard);

/// These, whether its files hold all tensors that it needs, and the folder; no weights are read.
nn::ModelFolder check_teacher(const config::TeacherConfig& teacher,
                              const config::ModelConfig& student, const config::TrainConfig& train,
                              bool shard);

}  // namespace fbi::distill
