#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "exporter/folded_tensors.h"
#include "fbi/formats/gguf.h"

namespace fbi::exporter {

/// The tensors of a GGUF file before their rows are put into llama.cpp's order, read one at a time.
class GgufContents {
 public:
  virtual ~GgufContents() = default;
  /// In the order in which they are written.
  virtual const std::vector<config::TensorSpec>& tensors() const = 0;
  virtual formats::GgufType type(const config::TensorSpec& tensor) const = 0;
  /// The whole tensor in its type; adds to `zeros`. DataError when a value is not finite or too
  /// large.
  virtual std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                        ZeroCounts& zeros) const = 0;
  /// What a user should know, for the report; "" when there is nothing.
  virtual std::string note() const { return ""; }
};

/// The weights of the folded export, F32 or F16; vectors in F32 with the values that they have in
/// folding.dtype. `model` is resolved, here and below.
std::unique_ptr<GgufContents> folded_contents(const formats::ModelSource& source,
                                              const config::ModelConfig& model,
                                              const Folding& folding);

/// Signs in Q1_0, whose scale is one number for 128 weights of a row; alpha, one number per column,
/// goes where it is one number per row of the matrix before:
///   q, k, v: into the input norm; gate, up: into the norm before them (F32, one rounding);
///   o: into the rows of v; down: into the rows of up, as the fp16 scales of their blocks.
/// Blocks of all others have scale 1. Query heads that share a value head must agree in o's alpha;
/// where they do not, o is a dense F16 matrix of ±fp16(alpha). Embedding and head are F16.
/// UsageError, with the reason, for a model that this does not hold; DataError as check_source.
std::unique_ptr<GgufContents> bit_contents(const formats::ModelSource& source,
                                           const config::ModelConfig& model);

}  // namespace fbi::exporter
