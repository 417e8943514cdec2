#include "exporter/gguf_contents.h"

#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "exporter/check_source.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"

namespace fbi::exporter {
namespace {

using formats::DType;
using formats::GgufType;
using Role = config::TensorSpec::Role;

class FoldedContents final : public GgufContents {
 public:
  FoldedContents(const formats::ModelSource& source, const config::ModelConfig& model,
                 const Folding& folding)
      : folded_(source, model, folding), dtype_(folding.dtype) {}
  const std::vector<config::TensorSpec>& tensors() const override { return folded_.tensors(); }
  GgufType type(const config::TensorSpec& tensor) const override {
    return tensor.shape.size() == 1 ? GgufType::kF32 : formats::gguf_type(dtype_);
  }
  std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                ZeroCounts& zeros) const override {
    std::vector<std::byte> bytes = folded_.encode(tensor, zeros);
    if (tensor.shape.size() > 1 || dtype_ == DType::kF32) return bytes;
    std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
    formats::to_float(formats::TensorView{tensor.name, dtype_, tensor.shape, bytes}, values);
    bytes.resize(values.size() * sizeof(float));
    cast(values, DType::kF32, bytes);
    return bytes;
  }

 private:
  FoldedTensors folded_;
  DType dtype_;
};

/// Of which linear layer alpha goes into a tensor.
struct Fold {
  std::string_view tensor, linear;
};
constexpr std::array<Fold, 4> kFolds = {{{"input_layernorm", "self_attn.q_proj"},
                                         {"post_attention_layernorm", "mlp.gate_proj"},
                                         {"self_attn.v_proj", "self_attn.o_proj"},
                                         {"mlp.up_proj", "mlp.down_proj"}}};

class BitContents final : public GgufContents {
 public:
  BitContents(const formats::ModelSource& source, const config::ModelConfig& model)
      : model_(model), reader_(source, DType::kF16) {
    check_training(source.description());
    check_widths();
    check_source(source, model_);
    tensors_ = config::model_tensors(model_);
    std::erase_if(tensors_, [](const config::TensorSpec& t) { return !t.is_weight(); });
    for (std::int64_t layer = 0; layer < model_.num_hidden_layers; ++layer) {
      const std::string output = config::layer_prefix(layer) + "self_attn.o_proj.weight";
      if (!folds(output)) dense_.insert(output);
    }
  }

  const std::vector<config::TensorSpec>& tensors() const override { return tensors_; }

  GgufType type(const config::TensorSpec& tensor) const override {
    if (tensor.shape.size() == 1) return GgufType::kF32;
    const bool bits = tensor.role == Role::kLatent && !dense_.contains(tensor.name);
    return bits ? GgufType::kQ1_0 : GgufType::kF16;
  }

  std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                ZeroCounts& zeros) const override {
    if (tensor.role == Role::kLatent) return matrix(tensor, zeros);
    std::vector<float> values =
        tensor.shape.size() == 1 ? reader_.read_finite(tensor) : reader_.read_for_cast(tensor);
    if (const auto folded = folded_into(tensor.name)) {
      const std::vector<float> alpha = scales(*folded, /*as_fp16=*/false);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] *= alpha[i];
    }
    const DType dtype = tensor.shape.size() == 1 ? DType::kF32 : DType::kF16;
    std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(size_of(dtype)));
    cast(values, dtype, bytes);
    return bytes;
  }

  std::string note() const override {
    if (dense_.empty()) return "";
    return concat("attn_output of ", dense_.size(), " of ", model_.num_hidden_layers,
                  " layers is F16, not Q1_0: query heads that share a value head have different "
                  "scales there, which fold into no other tensor");
  }

 private:
  void check_training(const std::string& place) const {
    if (model_.binarize == config::Binarize::kColumn && model_.tie_scales && !model_.shift) return;
    throw UsageError(
        concat(place,
               ": Q1_0 holds signs with one scale for 128 weights of a row and no shift, so the "
               "scales per column must fold into other tensors: expected a model trained with "
               "model.binarize=column, model.tie_scales=true and model.shift=false, found ",
               to_string(model_.binarize), ", ", model_.tie_scales ? "true" : "false", " and ",
               model_.shift ? "true" : "false", "; export it as gguf or packed"));
  }

  void check_widths() const {
    const std::int64_t queries = model_.num_attention_heads * model_.head_dim;
    for (const auto& [name, width] : {std::pair{"hidden_size", model_.hidden_size},
                                      std::pair{"num_attention_heads * head_dim", queries},
                                      std::pair{"intermediate_size", model_.intermediate_size}}) {
      if (width % formats::kQ1BlockWeights == 0) continue;
      throw UsageError(concat("Q1_0 holds blocks of ", formats::kQ1BlockWeights,
                              " weights: expected a multiple of it as ", name, ", found ", width,
                              "; export it as gguf or packed"));
    }
  }

  /// Whether the alpha of an attention output is one number for each row of v.
  bool folds(const std::string& output) const {
    const std::vector<float> alpha = scales(output, /*as_fp16=*/true);
    const std::int64_t group = model_.num_attention_heads / model_.num_key_value_heads;
    for (std::int64_t i = 0; i < std::ssize(alpha); ++i) {
      const std::int64_t head = i / model_.head_dim, inside = i % model_.head_dim;
      if (alpha[i] != alpha[head / group * group * model_.head_dim + inside]) return false;
    }
    return true;
  }

  /// The weight whose alpha goes into a tensor.
  std::optional<std::string> folded_into(const std::string& name) const {
    for (const Fold& fold : kFolds) {
      const auto at = name.find(fold.tensor);
      if (at == std::string::npos) continue;
      std::string weight = concat(name.substr(0, at), fold.linear, ".weight");
      if (dense_.contains(weight)) return std::nullopt;
      return weight;
    }
    return std::nullopt;
  }

  /// alpha of a weight; `as_fp16`: it will be rounded, and fits.
  std::vector<float> scales(const std::string& weight, bool as_fp16) const {
    std::int64_t columns = model_.hidden_size;
    if (weight.ends_with("o_proj.weight")) columns = model_.num_attention_heads * model_.head_dim;
    if (weight.ends_with("down_proj.weight")) columns = model_.intermediate_size;
    const config::TensorSpec spec{config::scale_name(weight), {1, columns}, Role::kScale};
    return as_fp16 ? reader_.read_for_cast(spec) : reader_.read_finite(spec);
  }

  std::vector<std::byte> matrix(const config::TensorSpec& tensor, ZeroCounts& zeros) const {
    const kernels::MatrixShape shape = {tensor.shape[0], tensor.shape[1]};
    const std::vector<float> latent = reader_.read_finite(tensor);
    zeros.exact += count_zeros(latent).exact;
    if (dense_.contains(tensor.name)) {
      const std::vector<float> alpha = scales(tensor.name, /*as_fp16=*/true);
      const std::vector<float> no_shift(alpha.size());
      std::vector<std::byte> bytes(latent.size() * 2);
      fold({shape, kernels::ScaleStrides::per_column(), latent, alpha, no_shift}, {DType::kF16},
           bytes);
      return bytes;
    }
    return blocks(latent, shape, row_scales(tensor.name, shape.rows));
  }

  /// Of the rows of a matrix in Q1_0, as fp16.
  std::vector<std::uint16_t> row_scales(const std::string& name, std::int64_t rows) const {
    std::vector<std::uint16_t> out(static_cast<std::size_t>(rows), formats::float_to_half(1));
    const auto folded = folded_into(name);
    if (!folded) return out;
    const std::vector<float> alpha = scales(*folded, /*as_fp16=*/true);
    const std::int64_t width = model_.head_dim;
    const std::int64_t group = std::ssize(alpha) / rows;  // query heads per row of v; up: 1
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t column = group == 1 ? row : row / width * group * width + row % width;
      out[row] = formats::float_to_half(alpha[column]);
    }
    return out;
  }

  static std::vector<std::byte> blocks(const std::vector<float>& latent, kernels::MatrixShape shape,
                                       const std::vector<std::uint16_t>& scales) {
    constexpr std::int64_t kBitBytes = formats::kQ1BlockWeights / 8;
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(shape.rows * shape.columns / 8));
    SerialFor serial;
    kernels::pack_signs(latent.data(), shape, bits.data(), serial);
    std::vector<std::byte> out(
        static_cast<std::size_t>(shape.rows * formats::row_bytes(GgufType::kQ1_0, shape.columns)));
    const std::int64_t per_row = shape.columns / formats::kQ1BlockWeights;
    for (std::int64_t block = 0; block < shape.rows * per_row; ++block) {
      std::byte* to = out.data() + block * formats::kQ1BlockBytes;
      const std::uint16_t scale = scales[block / per_row];
      std::memcpy(to, &scale, sizeof scale);
      std::memcpy(to + sizeof scale, bits.data() + block * kBitBytes, kBitBytes);
    }
    return out;
  }

  config::ModelConfig model_;
  TensorReader reader_;
  std::vector<config::TensorSpec> tensors_;
  std::set<std::string> dense_;  // attention outputs whose alpha does not fold
};

}  // namespace

std::unique_ptr<GgufContents> folded_contents(const formats::ModelSource& source,
                                              const config::ModelConfig& model,
                                              const Folding& folding) {
  check_source(source, model);
  return std::make_unique<FoldedContents>(source, model, folding);
}

std::unique_ptr<GgufContents> bit_contents(const formats::ModelSource& source,
                                           const config::ModelConfig& model) {
  return std::make_unique<BitContents>(source, model);
}

}  // namespace fbi::exporter
