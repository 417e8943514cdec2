#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/eval/language_model.h"
#include "fbi/kernels/gemv.h"
#include "infer/model_parts.h"

namespace fbi::infer {

/// Finds the tokens whose logits decide what is drawn, by a copy of the head in 8 bits: of the
/// others the full rows need not be read. What is drawn stays the same, because every logit is
/// known to lie within a bound of its estimate. With a row w, its copy v and a hidden state x,
/// |w·x - v·x| <= |w - v| |x| (Cauchy and Schwarz); roundings of x and of both sums are counted in.
class HeadScreen {
 public:
  /// Rows that are estimated together, and of these those that share a highest logit.
  static constexpr std::int64_t kPiece = 256, kGroup = 64;
  /// Candidates, as a part of the rows, beyond which all rows are read as quickly.
  static constexpr std::int64_t kTooMany = 8;

  /// A copy of `head`, which has the rows of `name`.
  HeadScreen(const ModelParts& parts, const std::string& name, const kernels::DenseLinear& head,
             ParallelFor& parallel);

  /// Of the copy and what belongs to it.
  std::size_t bytes() const { return copy_.weight_bytes() + error_.size() * sizeof(float); }
  /// What is known of the logits of one hidden state.
  struct Search {
    eval::Drawable wanted;
    bool found = false;  ///< whether the candidates are all that may be wanted
    float norm = 0;      ///< of the hidden state, rounded up
    kernels::DenseLinear::RoundedInput input;
    std::vector<float> estimates;          ///< [V]
    std::vector<float> low, high;          ///< [groups]: bounds of their highest logit
    std::vector<std::int32_t> candidates;  ///< empty where not found
  };
  /// Whether so few are wanted that it may find them.
  bool suits(const eval::Drawable& wanted) const {
    return wanted.highest <= groups(std::min(wanted.ids, copy_.shape().rows));
  }
  /// For a hidden state x [padded_columns] and what suits.
  void begin(const float* x, const eval::Drawable& wanted, Search& search) const;
  std::int64_t pieces() const { return (copy_.shape().rows + kPiece - 1) / kPiece; }
  /// Its logits in a piece; different pieces from several threads. Does not throw.
  void estimate(std::int64_t piece, Search& search) const;
  /// When all pieces are estimated. Nothing is found where the candidates are too many to be worth
  /// it, or numbers so large that sums may overflow. Does not throw.
  void find(Search& search) const;

 private:
  static std::int64_t groups(std::int64_t rows) { return (rows + kGroup - 1) / kGroup; }
  std::pair<float, float> bounds(std::int64_t begin, std::int64_t end, const Search& search) const;

  kernels::DenseLinear copy_;
  std::vector<float> error_;  // [V]: of an estimate, for each unit of |x|
  double largest_norm_ = 0;   // of a row
};

}  // namespace fbi::infer
