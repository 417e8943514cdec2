#include "exporter/export_folder.h"

#include <utility>

#include "exporter/check_source.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/checksums.h"
#include "fbi/text/hugging_face.h"

namespace fbi::exporter {
namespace {

void write_tensors(const FolderContent& content, StagedExport::Impl& staged,
                   const ExportOptions& options) {
  std::vector<formats::TensorView> layout;
  for (const config::TensorSpec& tensor : content.tensors())
    layout.push_back(content.layout(tensor));
  formats::TensorFolderWriter writer(staged.staging, std::move(layout), options.max_shard_bytes);
  for (const config::TensorSpec& tensor : content.tensors()) {
    writer.write(content.encode(tensor, staged.report.zeros));
    staged.wrote_tensor(tensor, content.tensors().size(), options);
  }
  writer.finish();
  staged.wrote_all(writer.tensor_bytes());
}

void write_configuration(const std::filesystem::path& folder, config::ModelConfig model,
                         ExportKind kind, formats::DType dtype) {
  if (kind == ExportKind::kFolded) model.binarize = config::Binarize::kNone;
  write_model_configuration(
      folder, model, dtype,
      kind == ExportKind::kPacked ? config::ModelName::kPacked : config::ModelName::kLlama);
}

void write_tokenizer(const config::ModelConfig& model, const ExportOptions& options,
                     StagedExport::Impl& staged) {
  if (options.tokenizer) {
    const std::string why = text::write_hugging_face_tokenizer(*options.tokenizer, staged.staging,
                                                               model.max_position_embeddings);
    if (!why.empty()) staged.report.tokenizer_note = concat("tokenizer.json left out: ", why);
  } else if (const auto& unread = options.unread_tokenizer) {
    copy_tokenizer_files(unread->file.parent_path(), staged.staging);
    staged.report.warnings.push_back(concat(
        "the tokenizer's files are copied as they are, for other programs; fbi cannot read them: ",
        unread->why));
  }
}

}  // namespace

StagedExport export_folder(const formats::ModelSource& source, const config::ModelConfig& model,
                           const FolderContent& content, ExportKind kind, const Folding& folding,
                           const std::filesystem::path& target, const ExportOptions& options) {
  std::vector<std::string> warnings = check_tokenizer_fits(options.tokenizer, model);
  check_source(source, model);
  auto staged = std::make_unique<StagedExport::Impl>(target);
  staged->report.warnings = std::move(warnings);
  write_tensors(content, *staged, options);
  write_configuration(staged->staging, model, kind, folding.dtype);
  write_tokenizer(model, options, *staged);
  write_file(staged->staging / "README.md",
             model_card_text(model, kind, folding, options, staged->report));
  // For fbi-run and training; other programs that load a folded one do not look at them.
  if (kind != ExportKind::kFolded) formats::write_checksums(staged->staging);
  staged->list_files();
  return StagedExport(std::move(staged));
}

}  // namespace fbi::exporter
