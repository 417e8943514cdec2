#include <cmath>
#include <set>

#include "fbi/config/huggingface.h"
#include "fbi/config/model_size.h"
#include "fbi/config/model_tensors.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/safetensors.h"
#include "fbi/infer/packed_model.h"
#include "infer/model_parts.h"

namespace fbi::infer {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::int64_t>;
using formats::DType;

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

/// Compares a folder's tensors with an architecture before anything is allocated.
class TensorCheck {
 public:
  TensorCheck(const formats::TensorFolder& tensors, const config::ModelConfig& model)
      : tensors_(tensors), model_(model) {}

  void run() {
    for (const config::TensorSpec& tensor : config::model_tensors(model_)) {
      if (!few_problems()) break;
      if (tensor.role != config::TensorSpec::Role::kLatent || tensors_.find(tensor.name)) {
        expect(tensor.name, tensor.shape, "F32, F16 or BF16", is_float);
      } else {
        expect(config::sign_bits_name(tensor.name),
               {tensor.shape[0], kernels::row_bytes(tensor.shape[1])}, "U8",
               [](DType dtype) { return dtype == DType::kU8; });
      }
    }
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
      if (!used_.contains(name) && !config::is_passed_over(name, model_.tie_word_embeddings)) {
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

config::ModelConfig read_config(const fs::path& directory) {
  const fs::path file = directory / "config.json";
  return config::model_config_from_hf_json(read_file(file), file.string());
}

/// Published checkpoints do not say `binarize`; their scales do.
void require_binarized(config::ModelConfig& model, const formats::TensorFolder& tensors) {
  if (model.binarize != config::Binarize::kNone) return;
  const std::string name = concat(config::layer_prefix(0), "self_attn.q_proj", config::kScale);
  const formats::TensorView* scale = tensors.find(name);
  if (!scale) {
    throw DataError(concat((tensors.path() / "config.json").string(),
                           ": there is no key `binarize`, nor a tensor ", name,
                           ", so this is no binarized model; make one with fbi-llm export --format "
                           "packed"));
  }
  model.binarize = config::binarize_of_scale(scale->shape);
}

class FileParts final : public ModelParts {
 public:
  FileParts(const fs::path& directory, ParallelFor& parallel)
      : config_(read_config(directory)), tensors_(directory), parallel_(parallel) {
    require_binarized(config_, tensors_);
    TensorCheck(tensors_, config_).run();
  }

  const config::ModelConfig& config() const override { return config_; }
  std::vector<float> norm(const std::string& name) const override { return values(name); }
  std::vector<float> alpha(const std::string& linear) const override {
    return values(concat(linear, config::kScale));
  }
  std::vector<float> beta(const std::string& linear) const override {
    return values(concat(linear, config::kShift));
  }

  /// Of a packed export they lie in the file; of a native one they come from its latent weights.
  const std::uint8_t* sign_bits(const std::string& linear, kernels::MatrixShape shape,
                                std::vector<std::uint8_t>& memory) const override {
    const std::string bits_name = concat(linear, config::kSignBits);
    if (const formats::TensorView* view = tensors_.find(bits_name)) {
      const auto* bits = reinterpret_cast<const std::uint8_t*>(view->bytes.data());
      check_padding(bits_name, bits, shape);
      return bits;
    }
    memory.resize(static_cast<std::size_t>(shape.rows * kernels::row_bytes(shape.columns)));
    kernels::pack_signs(values(concat(linear, config::kLatentWeight)).data(), shape, memory.data(),
                        parallel_);
    return memory.data();
  }

  void row(const std::string& name, std::int64_t index, std::span<float> out) const override {
    const formats::TensorView& view = tensors_.at(name);
    const std::size_t bytes = out.size() * static_cast<std::size_t>(formats::size_of(view.dtype));
    const auto part = view.bytes.subspan(static_cast<std::size_t>(index) * bytes, bytes);
    formats::to_float({name, view.dtype, {std::ssize(out)}, part}, out);
    require_finite(name, index * std::ssize(out), out);
  }

  bool is_half(const std::string& name) const override {
    return tensors_.at(name).dtype == DType::kF16;
  }

 private:
  std::vector<float> values(const std::string& name) const {
    const formats::TensorView& view = tensors_.at(name);
    std::vector<float> out(static_cast<std::size_t>(view.numel()));
    formats::to_float(view, out);
    require_finite(name, 0, out);
    return out;
  }

  void require_finite(const std::string& name, std::int64_t first,
                      std::span<const float> values) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw DataError(concat(name, " in ", tensors_.path().string(), ": value ",
                             first + static_cast<std::int64_t>(i), " is ", values[i],
                             "; a model must hold finite values only"));
    }
  }

  void check_padding(const std::string& name, const std::uint8_t* bits,
                     kernels::MatrixShape shape) const {
    if (shape.columns % 8 == 0) return;
    const std::int64_t stride = kernels::row_bytes(shape.columns);
    for (std::int64_t o = 0; o < shape.rows; ++o) {
      if (bits[(o + 1) * stride - 1] >> (shape.columns % 8) == 0) continue;
      throw DataError(concat(name, " in ", tensors_.path().string(), ", row ", o,
                             ": bits beyond the ", shape.columns,
                             " inputs must be 0; the file was altered or is of another format"));
    }
  }

  config::ModelConfig config_;
  formats::TensorFolder tensors_;
  ParallelFor& parallel_;
};

}  // namespace

std::unique_ptr<ModelParts> file_parts(const fs::path& directory, ParallelFor& parallel) {
  return std::make_unique<FileParts>(directory, parallel);
}

bool is_packed_folder(const fs::path& directory) {
  std::error_code ignored;
  const bool single = fs::is_regular_file(directory / "model.safetensors", ignored);
  if (!single && !fs::is_regular_file(directory / "model.safetensors.index.json", ignored)) {
    return false;  // a run directory, for one
  }
  return formats::TensorFolder(directory).find(
      concat(config::layer_prefix(0), "self_attn.q_proj", config::kSignBits));
}

}  // namespace fbi::infer
