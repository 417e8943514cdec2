#include "infer/packed_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include "fbi/config/huggingface.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/packed_names.h"

namespace fbi::infer {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::int64_t>;
using formats::DType;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kFinalNorm = "model.norm.weight";
constexpr const char* kHead = "lm_head.weight";

struct LinearName {
  std::string_view name;
  kernels::BinaryLinear LayerWeights::*member;
};
/// In the order of config::decoder_linears.
constexpr std::array<LinearName, 7> kLinears = {{{"self_attn.q_proj", &LayerWeights::q},
                                                 {"self_attn.k_proj", &LayerWeights::k},
                                                 {"self_attn.v_proj", &LayerWeights::v},
                                                 {"self_attn.o_proj", &LayerWeights::o},
                                                 {"mlp.gate_proj", &LayerWeights::gate},
                                                 {"mlp.up_proj", &LayerWeights::up},
                                                 {"mlp.down_proj", &LayerWeights::down}}};

std::string layer_prefix(std::int64_t layer) {
  return concat("model.layers.", layer, ".");
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

Shape scale_shape(config::Binarize binarize, kernels::MatrixShape shape) {
  if (binarize == config::Binarize::kColumn) return {1, shape.columns};
  return binarize == config::Binarize::kRow ? Shape{shape.rows, 1} : Shape{};
}

kernels::ScaleStrides scale_strides(config::Binarize binarize) {
  if (binarize == config::Binarize::kColumn) return kernels::ScaleStrides::per_column();
  return binarize == config::Binarize::kRow ? kernels::ScaleStrides::per_row()
                                            : kernels::ScaleStrides::single();
}

/// Compares a folder's tensors with an architecture before anything is allocated.
class TensorCheck {
 public:
  TensorCheck(const formats::TensorFolder& tensors, const config::ModelConfig& model)
      : tensors_(tensors), model_(model) {}

  void run() {
    expect_float(kEmbedding, {model_.vocab_size, model_.hidden_size});
    for (std::int64_t layer = 0; layer < model_.num_hidden_layers && few_problems(); ++layer) {
      expect_layer(layer_prefix(layer));
    }
    expect_float(kFinalNorm, {model_.hidden_size});
    if (!model_.tie_word_embeddings) expect_float(kHead, {model_.vocab_size, model_.hidden_size});
    refuse_others();
    if (problems_.empty()) return;
    throw DataError(concat("tensors in ", tensors_.path().string(),
                           " are no binarized model of its config.json:", problems_));
  }

 private:
  bool few_problems() const { return problem_count_ < 20; }

  void complain(const std::string& problem) {
    if (few_problems()) problems_ += "\n  " + problem;
    ++problem_count_;
  }

  void expect_layer(const std::string& prefix) {
    expect_float(prefix + "input_layernorm.weight", {model_.hidden_size});
    expect_float(prefix + "post_attention_layernorm.weight", {model_.hidden_size});
    const auto shapes = config::decoder_linears(model_);
    for (std::size_t n = 0; n < kLinears.size(); ++n) {
      const kernels::MatrixShape shape = {shapes[n].outputs, shapes[n].inputs};
      const std::string name = concat(prefix, kLinears[n].name);
      const std::string latent = concat(name, formats::kLatentWeight);
      if (tensors_.find(latent)) {
        expect_float(latent, {shape.rows, shape.columns});
      } else {
        expect(concat(name, formats::kSignBits), {shape.rows, kernels::row_bytes(shape.columns)},
               "U8", [](DType dtype) { return dtype == DType::kU8; });
      }
      expect_float(concat(name, formats::kScale), scale_shape(model_.binarize, shape));
      expect_float(concat(name, formats::kShift), scale_shape(model_.binarize, shape));
    }
  }

  void expect_float(const std::string& name, const Shape& shape) {
    expect(name, shape, "F32, F16 or BF16", is_float);
  }

  void expect(const std::string& name, const Shape& shape, const char* dtypes,
              bool (*fits)(DType)) {
    used_.insert(name);
    const formats::TensorView* view = tensors_.find(name);
    if (!view) return complain(concat("missing: ", name, " ", formats::shape_text(shape)));
    if (view->shape != shape) {
      complain(concat(name, ": expected ", formats::shape_text(shape), ", found ",
                      formats::shape_text(view->shape)));
    }
    if (!fits(view->dtype)) {
      complain(concat(name, ": expected ", dtypes, ", found ", formats::to_string(view->dtype)));
    }
  }

  void refuse_others() {
    for (const std::string& name : tensors_.names()) {
      const bool tied_head = model_.tie_word_embeddings && name == kHead;
      if (!used_.contains(name) && !tied_head && !name.ends_with("rotary_emb.inv_freq")) {
        complain(concat("not used by this architecture: ", name));
      }
    }
  }

  const formats::TensorFolder& tensors_;
  const config::ModelConfig& model_;
  std::set<std::string> used_;
  std::string problems_;
  int problem_count_ = 0;
};

[[noreturn]] void refuse_value(const formats::TensorFolder& tensors, const std::string& name,
                               std::int64_t index, float value) {
  throw DataError(concat(name, " in ", tensors.path().string(), ": value ", index, " is ", value,
                         "; a model must hold finite values only"));
}

/// Row `index` of a matrix.
void read_row(const formats::TensorFolder& tensors, const formats::TensorView& view,
              std::int64_t index, std::span<float> out) {
  const std::size_t bytes = out.size() * static_cast<std::size_t>(formats::size_of(view.dtype));
  const auto row = view.bytes.subspan(static_cast<std::size_t>(index) * bytes, bytes);
  formats::to_float({view.name, view.dtype, {std::ssize(out)}, row}, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!std::isfinite(out[i])) {
      refuse_value(tensors, view.name, index * std::ssize(out) + static_cast<std::int64_t>(i),
                   out[i]);
    }
  }
}

/// Reads checked tensors.
class WeightReader {
 public:
  WeightReader(const formats::TensorFolder& tensors, config::Binarize binarize,
               const PackedOptions& options, ParallelFor& parallel)
      : tensors_(tensors), binarize_(binarize), options_(options), parallel_(parallel) {}

  std::vector<float> values(const std::string& name) const {
    const formats::TensorView& view = tensors_.at(name);
    std::vector<float> out(static_cast<std::size_t>(view.numel()));
    formats::to_float(view, out);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!std::isfinite(out[i])) {
        refuse_value(tensors_, name, static_cast<std::int64_t>(i), out[i]);
      }
    }
    return out;
  }

  kernels::BinaryLinear linear(const std::string& name, kernels::MatrixShape shape) const {
    const std::vector<float> alpha = values(concat(name, formats::kScale));
    const std::vector<float> beta = values(concat(name, formats::kShift));
    std::vector<std::uint8_t> packed;
    const std::uint8_t* bits = sign_bits(name, shape, packed);
    return {bits, alpha, beta, scale_strides(binarize_), shape, options_.activations, parallel_};
  }

  kernels::DenseLinear head(const std::string& name, kernels::MatrixShape shape) const {
    const formats::TensorView& view = tensors_.at(name);
    const auto stored =
        view.dtype == DType::kF16 ? kernels::Storage::kFp16 : kernels::Storage::kFp32;
    kernels::DenseLinear head(shape, options_.head.value_or(stored));
    parallel_.run(0, shape.rows, 64, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> row(static_cast<std::size_t>(shape.columns));
      for (std::int64_t o = begin; o < end; ++o) {
        read_row(tensors_, view, o, row);
        head.set_row(o, row);
      }
    });
    return head;
  }

 private:
  /// Of a packed export they lie in the file; of a native one they come from its latent weights.
  const std::uint8_t* sign_bits(const std::string& name, kernels::MatrixShape shape,
                                std::vector<std::uint8_t>& packed) const {
    const std::string bits_name = concat(name, formats::kSignBits);
    if (const formats::TensorView* view = tensors_.find(bits_name)) {
      const auto* bits = reinterpret_cast<const std::uint8_t*>(view->bytes.data());
      check_padding(bits_name, bits, shape);
      return bits;
    }
    packed.resize(static_cast<std::size_t>(shape.rows * kernels::row_bytes(shape.columns)));
    kernels::pack_signs(values(concat(name, formats::kLatentWeight)).data(), shape, packed.data(),
                        parallel_);
    return packed.data();
  }

  void check_padding(const std::string& name, const std::uint8_t* bits,
                     kernels::MatrixShape shape) const {
    if (shape.columns % 8 == 0) return;
    const std::int64_t stride = kernels::row_bytes(shape.columns);
    for (std::int64_t o = 0; o < shape.rows; ++o) {
      if (bits[(o + 1) * stride - 1] >> (shape.columns % 8)) {
        throw DataError(concat(name, " in ", tensors_.path().string(), ", row ", o,
                               ": bits beyond the ", shape.columns,
                               " inputs must be 0; the file was altered or is of another format"));
      }
    }
  }

  const formats::TensorFolder& tensors_;
  config::Binarize binarize_;
  const PackedOptions& options_;
  ParallelFor& parallel_;
};

config::ModelConfig read_config(const fs::path& directory) {
  const fs::path file = directory / "config.json";
  config::ModelConfig model = config::model_config_from_hf_json(read_file(file), file.string());
  if (model.binarize == config::Binarize::kNone) {
    throw DataError(concat(file.string(),
                           ": there is no key `binarize`, so this is no binarized model; make one "
                           "with fbi-llm export --format packed"));
  }
  return model;
}

}  // namespace

PackedWeights::PackedWeights(const fs::path& directory, const PackedOptions& options,
                             ParallelFor& parallel)
    : config_(read_config(directory)) {
  tensors_ = std::make_unique<formats::TensorFolder>(directory);
  TensorCheck(*tensors_, config_).run();
  const WeightReader reader(*tensors_, config_.binarize, options, parallel);
  embedding_ = &tensors_->at(kEmbedding);
  const auto shapes = config::decoder_linears(config_);
  for (std::int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    const std::string prefix = layer_prefix(layer);
    LayerWeights weights;
    weights.input_norm = reader.values(prefix + "input_layernorm.weight");
    weights.post_attention_norm = reader.values(prefix + "post_attention_layernorm.weight");
    for (std::size_t n = 0; n < kLinears.size(); ++n) {
      weights.*kLinears[n].member =
          reader.linear(concat(prefix, kLinears[n].name), {shapes[n].outputs, shapes[n].inputs});
    }
    layers_.push_back(std::move(weights));
  }
  final_norm_ = reader.values(kFinalNorm);
  head_ = reader.head(config_.tie_word_embeddings ? kEmbedding : kHead,
                      {config_.vocab_size, config_.hidden_size});
}

void PackedWeights::embed(std::int32_t id, std::span<float> out) const {
  read_row(*tensors_, *embedding_, id, out);
}

bool is_packed_folder(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_regular_file(directory / "config.json", ignored)) return false;
  return formats::TensorFolder(directory).find(
      concat(layer_prefix(0), kLinears[0].name, formats::kSignBits));
}

}  // namespace fbi::infer
