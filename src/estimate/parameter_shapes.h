#pragma once

#include <cstdint>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::estimate {

inline constexpr std::int64_t kFloatBytes = 4;

/// One matrix of a model, as nn makes a slot of it.
struct ParameterMatrix {
  std::int64_t rows = 0, columns = 0;
  bool packed = false;
  std::int64_t elements() const { return rows * columns; }
  std::int64_t bits_bytes() const { return packed ? rows * row_bits_bytes() : 0; }
  std::int64_t row_bits_bytes() const { return (columns + 7) / 8; }
  /// Rows of every rank's part when the matrix is exchanged: distributed::ShardPlan.
  std::int64_t block_rows(int world_size) const;
};

/// Every parameter of a model once (a tied head is not listed), in totals where only those matter.
struct ParameterShapes {
  std::vector<ParameterMatrix> layer;  ///< q, k, v, o, gate, up, down of one decoder layer
  std::int64_t layers = 0;
  ParameterMatrix embedding;
  bool has_head = true;             ///< false: the embedding serves, with a second gradient buffer
  std::int64_t norm_elements = 0;   ///< all norms
  std::int64_t scale_elements = 0;  ///< all alphas and betas that are learned
  std::int64_t scale_values = 0;    ///< of working copies: betas that stay 0, too
  std::int64_t slots = 0;

  /// Sum of f(matrix) over the matrices of one decoder layer, over embedding and head, over all.
  template <class Function>
  std::int64_t over_layer(Function f) const {
    std::int64_t sum = 0;
    for (const ParameterMatrix& matrix : layer) sum += f(matrix);
    return sum;
  }
  template <class Function>
  std::int64_t over_vocabulary(Function f) const {
    return (has_head ? 2 : 1) * f(embedding);
  }
  template <class Function>
  std::int64_t over_matrices(Function f) const {
    return layers * over_layer(f) + over_vocabulary(f);
  }
};

ParameterShapes parameter_shapes(const config::ModelConfig& model);

}  // namespace fbi::estimate
