#include "fbi/exporter/export.h"

#include <string>
#include <utility>

#include "exporter/folded_tensors.h"
#include "exporter/model_card.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/checksums.h"
#include "fbi/text/hugging_face.h"

namespace fbi::exporter {
namespace {

using formats::DType;

class Exporter {
 public:
  /// `model` is resolved.
  Exporter(const formats::ModelSource& source, const config::ModelConfig& model, ExportKind kind,
           const Folding& folding, const std::filesystem::path& target,
           const ExportOptions& options)
      : source_(source),
        model_(model),
        kind_(kind),
        folding_(folding),
        options_(options),
        reader_(source, folding.dtype),
        folded_(source, model, folding) {
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
    write("README.md", model_card_text(model_, kind_, folding_, options_.card, report()));
    if (kind_ == ExportKind::kNative) formats::write_checksums(staged_->staging);
    staged_->list_files();
    return StagedExport(std::move(staged_));
  }

 private:
  ExportReport& report() { return staged_->report; }
  void write(const char* name, const std::string& text) {
    write_file(staged_->staging / name, text);
  }

  void write_tensors() {
    const std::vector<TensorSpec> tensors =
        kind_ == ExportKind::kFolded ? folded_.list() : model_tensors(model_);
    std::vector<formats::TensorView> layout;
    for (const TensorSpec& tensor : tensors) {
      layout.push_back({tensor.name, folding_.dtype, tensor.shape, {}});
    }
    formats::TensorFolderWriter writer(staged_->staging, std::move(layout),
                                       options_.max_shard_bytes);
    for (const TensorSpec& tensor : tensors) {
      writer.write(encode(tensor));
      staged_->wrote_tensor(tensor, tensors.size(), options_);
    }
    writer.finish();
    staged_->wrote_all(writer.tensor_bytes());
  }

  std::vector<std::byte> encode(const TensorSpec& tensor) {
    if (kind_ == ExportKind::kFolded) return folded_.read(tensor, report().zeros);
    const std::vector<float> values = reader_.read_for_cast(tensor);
    if (tensor.role == TensorSpec::Role::kLatent) report().zeros += count_zeros(values);
    std::vector<std::byte> bytes(values.size() *
                                 static_cast<std::size_t>(formats::size_of(folding_.dtype)));
    cast(values, folding_.dtype, bytes);
    return bytes;
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
  FoldedTensors folded_;
  std::unique_ptr<StagedExport::Impl> staged_;
};

config::ModelConfig resolved(config::ModelConfig model) {
  config::resolve(model);
  return model;
}

}  // namespace

StagedExport export_native(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const ExportOptions& options) {
  return Exporter(source, resolved(model), ExportKind::kNative, {DType::kF32}, target, options)
      .run();
}

StagedExport export_folded(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const Folding& folding,
                           const ExportOptions& options) {
  validate(folding);
  return Exporter(source, resolved(model), ExportKind::kFolded, folding, target, options).run();
}

}  // namespace fbi::exporter
