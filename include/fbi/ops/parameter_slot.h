#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace fbi::ops {

/// Granularity of alpha and beta (paper §3.1; published code: scaling_pattern). With weight [O, I]:
/// column has one pair per input ([1, I]), row one per output ([O, 1]), single one in all ([]).
enum class ScalePattern { kColumn, kRow, kSingle };

/// packed: a binarized linear; dense: a full-precision matrix; vector: norm weights.
enum class SlotKind { kPacked, kDense, kVector };

/// How products with a packed slot are formed: with W~ as a dense matrix; on the CPU from its signs
/// by tables of sums (fp32); the same with inputs rounded to 8 bits; forward from signs and inputs
/// in 8-bit floats (fp8.h), backward dense.
enum class SignProducts { kDense, kTables, kInt8, kFp8 };

/// Which learning-rate and weight-decay multiplier applies (optimizer.groups.*).
enum class ParameterGroup { kLatent, kScale, kNorm, kEmbedding };

/// The joint between model and optimizer. The model owns the working copy (what forward and
/// backward read) and the gradient buffer; the optimizer owns latent weights and moments and writes
/// the working copy once per step.
struct ParameterSlot {
  std::string name;  ///< published tensor name, e.g. "model.layers.0.self_attn.q_proj.weight"
  SlotKind kind = SlotKind::kDense;
  ParameterGroup group = ParameterGroup::kLatent;
  std::vector<std::int64_t> shape;               ///< [O, I] or [D]
  ScalePattern pattern = ScalePattern::kColumn;  ///< packed only

  /// Packed: uint8 [O, ceil(I/8)], least significant bit first, 1 = +1, pad bits 0.
  at::Tensor bits;
  at::Tensor alpha;          ///< packed: fp32, flat, numel = I (column), O (row) or 1 (single)
  at::Tensor beta;           ///< packed: like alpha; zeros when learns_shift is false
  bool learns_shift = true;  ///< false: beta is 0 for ever, no parameter, and in no file
  /// Slots with tied scales hold one alpha tensor (column): rows of those before this one in the
  /// model's order. 0: it is this slot's own, which names its moments.
  std::int64_t alpha_rows_before = 0;
  at::Tensor value;         ///< dense, vector: working copy, fp32 in training
  at::Tensor value_scales;  ///< fp32 [O] where value is e4m3 (store_as_fp8): the matrix is their
                            ///< product row by row; else undefined
  /// Evaluation only: W~ of a packed slot is rounded to this type before the compute dtype (fp32:
  /// no extra rounding).
  at::ScalarType rounding = at::kFloat;
  SignProducts products = SignProducts::kDense;  ///< packed, in training
  /// Packed, in training with keep_unpacked: W~ as products take it. Whoever writes bits, alpha or
  /// beta makes it stale.
  at::Tensor unpacked;
  bool unpacked_is_current = false;

  at::Tensor grad;  ///< fp32, shape; raw dL/dW~ summed over the micro-steps of a step (packed), or
                    ///< dL/dvalue
  /// grad is made when backward first adds to it, and gone once the optimizer has zeroed it.
  bool grad_on_demand = false;
  at::Tensor tied_grad;  ///< fp32, shape; second buffer of a tied embedding (the head's part),
                         ///< added once per step

  bool owns_alpha() const { return alpha_rows_before == 0; }
  std::int64_t rows() const { return shape[0]; }
  std::int64_t columns() const { return shape.size() > 1 ? shape[1] : 1; }
};

}  // namespace fbi::ops
