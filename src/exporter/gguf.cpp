#include "fbi/exporter/gguf.h"

#include <cstring>
#include <map>
#include <utility>

#include "exporter/gguf_contents.h"
#include "exporter/gguf_layout.h"
#include "exporter/model_card.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/text/byte_level.h"

namespace fbi::exporter {
namespace {

using formats::DType;

/// Rows in the order of llama.cpp.
std::vector<std::byte> permuted(const std::vector<std::byte>& bytes, std::int64_t rows,
                                std::int64_t heads) {
  if (heads == 0) return bytes;
  std::vector<std::byte> out(bytes.size());
  const std::size_t width = bytes.size() / static_cast<std::size_t>(rows);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::memcpy(out.data() + static_cast<std::size_t>(row) * width,
                bytes.data() + static_cast<std::size_t>(source_row(row, rows, heads)) * width,
                width);
  }
  return out;
}

/// What a user should know of the file.
std::string note_of(const GgufContents& contents, const text::Tokenizer* tokenizer) {
  std::string note = contents.note();
  if (!tokenizer || text::byte_level_rules(*tokenizer)) return note;
  const std::string why = tokenizer->why_no_tokenizer_json();
  if (why.empty()) return note;
  // llama.cpp merges pieces by their scores, whatever the tokenizer does.
  return concat(note, note.empty() ? "" : "; ",
                "llama.cpp may cut texts into other tokens, or fail, because this tokenizer is not "
                "like LLaMA's: ",
                why);
}

void write_tensors(const GgufContents& contents, const config::ModelConfig& model,
                   formats::GgufMetadata metadata, StagedExport::Impl& staged,
                   const ExportOptions& options) {
  const std::vector<float> factors = rope_factors(model);
  std::vector<formats::GgufTensor> layout;
  std::uint64_t tensor_bytes = 0;
  for (const config::TensorSpec& tensor : contents.tensors()) {
    const formats::GgufType type = contents.type(tensor);
    layout.push_back({gguf_name(tensor.name), type, tensor.shape, {}});
    const std::int64_t columns = tensor.shape.back();
    tensor_bytes +=
        static_cast<std::uint64_t>(tensor.numel() / columns * formats::row_bytes(type, columns));
  }
  if (!factors.empty())
    layout.push_back({kRopeFactors, formats::GgufType::kF32, {std::ssize(factors)}, {}});
  staged.report.note = note_of(contents, options.tokenizer);

  formats::GgufWriter writer(staged.staging / kGgufFile, metadata, layout);
  for (const config::TensorSpec& tensor : contents.tensors()) {
    const std::vector<std::byte> bytes = contents.encode(tensor, staged.report.zeros);
    writer.write(permuted(bytes, tensor.shape[0], permuted_heads(tensor.name, model)));
    staged.wrote_tensor(tensor, contents.tensors().size(), options);
  }
  if (!factors.empty()) writer.write(std::as_bytes(std::span(factors)));
  writer.finish();
  staged.wrote_all(tensor_bytes);
}

class GgufSource final : public formats::ModelSource {
 public:
  GgufSource(const std::filesystem::path& path, const config::ModelConfig& model)
      : file_(path), model_(model) {
    std::map<std::string, const formats::GgufTensor*> views;
    for (const formats::GgufTensor& view : file_.tensors()) views.emplace(view.name, &view);
    for (const config::TensorSpec& tensor : config::model_tensors(model_)) {
      const auto found = views.find(gguf_name(tensor.name));
      if (found != views.end()) views_.emplace(tensor.name, found->second);
    }
  }
  std::string description() const override { return file_.path().string(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, view] : views_) all.push_back(name);
    return all;
  }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const auto found = views_.find(name);
    if (found == views_.end()) return std::nullopt;
    return found->second->shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    const auto found = views_.find(name);
    if (found == views_.end())
      throw DataError(concat(description(), " has no tensor ", gguf_name(name)));
    const formats::GgufTensor& view = *found->second;
    const std::int64_t heads = permuted_heads(name, model_);
    if (heads == 0) return formats::to_float(view, out);
    std::vector<float> stored(out.size());
    formats::to_float(view, stored);
    const std::int64_t rows = view.shape[0], columns = view.shape[1];
    for (std::int64_t row = 0; row < rows; ++row) {
      std::copy_n(stored.begin() + row * columns, columns,
                  out.begin() + source_row(row, rows, heads) * columns);
    }
  }

 private:
  formats::GgufFile file_;
  config::ModelConfig model_;
  std::map<std::string, const formats::GgufTensor*> views_;
};

/// The stock LLaMA that a model folds into.
config::ModelConfig folded_model(config::ModelConfig model) {
  config::resolve(model);
  model.binarize = config::Binarize::kNone;
  model.tie_scales = false;
  model.shift = true;
  return model;
}

StagedExport write_folder(const GgufContents& contents, const config::ModelConfig& model,
                          FileKind file_kind, ExportKind kind, const Folding& folding,
                          const std::filesystem::path& target, const ExportOptions& options) {
  if (const auto& unread = options.unread_tokenizer) {
    throw UsageError(concat(
        "a GGUF export holds the pieces of the tokenizer, which fbi cannot read: ", unread->why,
        "; give another one (--tokenizer FILE), or export the model as hf"));
  }
  check_tokenizer_fits(options.tokenizer, model);  // whose BOS and EOS are the file's
  auto staged = std::make_unique<StagedExport::Impl>(target);
  const std::string title = title_of(options.card, staged->report);
  write_tensors(contents, model, gguf_metadata(model, file_kind, title, options.tokenizer), *staged,
                options);
  write_file(staged->staging / "README.md",
             model_card_text(model, kind, folding, options, staged->report));
  staged->list_files();
  return StagedExport(std::move(staged));
}

}  // namespace

StagedExport export_gguf(const formats::ModelSource& source, const config::ModelConfig& unresolved,
                         const std::filesystem::path& target, const Folding& folding,
                         const ExportOptions& options) {
  validate(folding);
  if (folding.dtype != DType::kF32 && folding.dtype != DType::kF16) {
    throw UsageError(
        concat("a GGUF export is F32 or F16, found ", formats::to_string(folding.dtype)));
  }
  config::ModelConfig model = unresolved;
  config::resolve(model);
  const FileKind file_kind = folding.dtype == DType::kF16 ? FileKind::kF16 : FileKind::kF32;
  return write_folder(*folded_contents(source, model, folding), model, file_kind, ExportKind::kGguf,
                      folding, target, options);
}

StagedExport export_gguf_q1_0(const formats::ModelSource& source,
                              const config::ModelConfig& unresolved,
                              const std::filesystem::path& target, const ExportOptions& options) {
  config::ModelConfig model = unresolved;
  config::resolve(model);
  return write_folder(*bit_contents(source, model), model, FileKind::kQ1_0, ExportKind::kGgufBits,
                      {DType::kF16}, target, options);
}

std::unique_ptr<formats::ModelSource> gguf_source(const std::filesystem::path& file,
                                                  const config::ModelConfig& model) {
  return std::make_unique<GgufSource>(file, folded_model(model));
}

}  // namespace fbi::exporter
