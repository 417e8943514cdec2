#include "fbi/exporter/export.h"

#include <cmath>
#include <string>
#include <utility>

#include "exporter/model_card.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/text/hugging_face.h"

namespace fbi::exporter {
namespace {

using formats::DType;
using Role = TensorSpec::Role;

class Exporter {
 public:
  Exporter(const formats::ModelSource& source, const config::ModelConfig& model, ExportKind kind,
           const Folding& folding, const std::filesystem::path& target,
           const ExportOptions& options)
      : source_(source),
        model_(model),
        kind_(kind),
        folding_(folding),
        options_(options),
        reader_(source, folding.dtype) {
    config::resolve(model_);
    check_tokenizer_fits(options_.tokenizer, model_);
    check_tensors(source_, model_);
    staged_ = std::make_unique<StagedExport::Impl>(target);
  }

  StagedExport run() {
    write_tensors();
    write_configuration();
    if (options_.tokenizer) {
      report().tokenizer_note = text::write_hugging_face_tokenizer(
          *options_.tokenizer, staged_->staging, model_.max_position_embeddings);
    }
    report().directory = staged_->target;
    write("README.md", model_card_text(model_, kind_, folding_, options_.card, report()));
    staged_->list_files();
    return StagedExport(std::move(staged_));
  }

 private:
  ExportReport& report() { return staged_->report; }
  void write(const char* name, const std::string& text) {
    write_file(staged_->staging / name, text);
  }

  /// What the export consists of: all tensors, or without scales and shifts once they are folded.
  std::vector<TensorSpec> exported_tensors() const {
    std::vector<TensorSpec> tensors = model_tensors(model_);
    if (kind_ == ExportKind::kFolded) {
      std::erase_if(tensors, [](const TensorSpec& tensor) {
        return tensor.role == Role::kScale || tensor.role == Role::kShift;
      });
    }
    return tensors;
  }

  void write_tensors() {
    const std::vector<TensorSpec> tensors = exported_tensors();
    std::vector<formats::TensorView> layout;
    for (const TensorSpec& tensor : tensors) {
      layout.push_back({tensor.name, folding_.dtype, tensor.shape, {}});
      const bool weight = tensor.role == Role::kDense || tensor.role == Role::kLatent;
      report().weights += weight ? tensor.numel() : 0;
    }
    formats::TensorFolderWriter writer(staged_->staging, std::move(layout),
                                       options_.max_shard_bytes);
    report().bits_per_weight =
        8.0 * static_cast<double>(writer.tensor_bytes()) / static_cast<double>(report().weights);
    for (const TensorSpec& tensor : tensors) {
      writer.write(encode(tensor));
      ++report().tensors;
      if (options_.on_progress) {
        options_.on_progress({report().tensors, static_cast<std::int64_t>(tensors.size())});
      }
    }
    writer.finish();
  }

  std::vector<std::byte> encode(const TensorSpec& tensor) {
    std::vector<std::byte> bytes(
        static_cast<std::size_t>(tensor.numel() * formats::size_of(folding_.dtype)));
    if (tensor.role != Role::kLatent) {
      cast(reader_.read_for_cast(tensor), folding_.dtype, bytes);
      return bytes;
    }
    const std::vector<float> latent = reader_.read_finite(tensor);
    ZeroCounts zeros;
    if (kind_ == ExportKind::kNative) {
      cast(latent, folding_.dtype, bytes);
      zeros = count_zeros(latent);
    } else {
      zeros = fold_matrix(tensor, latent, bytes);
    }
    report().zeros.exact += zeros.exact;
    report().zeros.fp16 += zeros.fp16;
    return bytes;
  }

  ZeroCounts fold_matrix(const TensorSpec& tensor, std::span<const float> latent,
                         std::span<std::byte> out) const {
    const kernels::MatrixShape shape = {tensor.shape[0], tensor.shape[1]};
    const auto scales = scale_shape(model_.binarize, shape);
    const TensorSpec scale_spec = {scale_name(tensor.name), scales, Role::kScale};
    const TensorSpec shift_spec = {shift_name(tensor.name), scales, Role::kShift};
    const std::vector<float> scale = reader_.read_for_cast(scale_spec);
    const std::vector<float> shift = reader_.read_for_cast(shift_spec);
    for (std::size_t i = 0; i < scale.size(); ++i) {
      if (!(std::abs(scale[i]) + std::abs(shift[i]) < overflow_limit(folding_.dtype))) {
        throw DataError(concat(tensor.name, ": weight ", shift[i], " ± ", scale[i], " (pair ", i,
                               ") in ", source_.description(), " is too large for ",
                               formats::to_string(folding_.dtype), "; export it in another dtype"));
      }
    }
    return fold({shape, scale_strides(model_.binarize), latent, scale, shift}, folding_, out);
  }

  void write_configuration() {
    config::ModelConfig model = model_;
    if (kind_ == ExportKind::kFolded) model.binarize = config::Binarize::kNone;
    write_model_configuration(staged_->staging, model, folding_.dtype);
  }

  const formats::ModelSource& source_;
  config::ModelConfig model_;
  ExportKind kind_;
  Folding folding_;
  const ExportOptions& options_;
  TensorReader reader_;
  std::unique_ptr<StagedExport::Impl> staged_;
};

}  // namespace

StagedExport export_native(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const ExportOptions& options) {
  return Exporter(source, model, ExportKind::kNative, {DType::kF32}, target, options).run();
}

StagedExport export_folded(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const Folding& folding,
                           const ExportOptions& options) {
  validate(folding);
  return Exporter(source, model, ExportKind::kFolded, folding, target, options).run();
}

}  // namespace fbi::exporter
