#include "fbi/exporter/gguf.h"

#include <cstring>
#include <map>
#include <utility>

#include "exporter/folded_tensors.h"
#include "exporter/gguf_layout.h"
#include "exporter/model_card.h"
#include "exporter/model_files.h"
#include "exporter/staged_export.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"

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

/// Vectors are F32 in GGUF, with the values that they have in folding.dtype.
std::vector<std::byte> as_fp32(const std::vector<std::byte>& bytes, const TensorSpec& tensor,
                               DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  formats::to_float({tensor.name, dtype, tensor.shape, bytes}, values);
  std::vector<std::byte> out(values.size() * sizeof(float));
  cast(values, DType::kF32, out);
  return out;
}

void write_tensors(const FoldedTensors& folded, const config::ModelConfig& model, DType dtype,
                   StagedExport::Impl& staged, const ExportOptions& options) {
  const std::vector<float> factors = rope_factors(model);
  std::vector<formats::TensorView> layout;
  ExportReport& report = staged.report;
  std::int64_t tensor_bytes = 0;
  for (const TensorSpec& tensor : folded.list()) {
    layout.push_back(
        {gguf_name(tensor.name), tensor.shape.size() == 1 ? DType::kF32 : dtype, tensor.shape, {}});
    report.weights += tensor.numel();
    tensor_bytes += tensor.numel() * formats::size_of(layout.back().dtype);
  }
  if (!factors.empty()) layout.push_back({kRopeFactors, DType::kF32, {std::ssize(factors)}, {}});
  report.bits_per_weight =
      8.0 * static_cast<double>(tensor_bytes) / static_cast<double>(report.weights);

  const std::string title =
      options.card.title.empty() ? staged.target.filename().string() : options.card.title;
  formats::GgufWriter writer(staged.staging / kGgufFile,
                             gguf_metadata(model, dtype, title, options.tokenizer), layout);
  for (const TensorSpec& tensor : folded.list()) {
    const std::vector<std::byte> bytes = folded.read(tensor, report.zeros);
    writer.write(tensor.shape.size() == 1
                     ? as_fp32(bytes, tensor, dtype)
                     : permuted(bytes, tensor.shape[0], permuted_heads(tensor.name, model)));
    ++report.tensors;
    if (options.on_progress) options.on_progress({report.tensors, std::ssize(folded.list())});
  }
  if (!factors.empty()) writer.write(std::as_bytes(std::span(factors)));
  writer.finish();
}

class GgufSource final : public formats::ModelSource {
 public:
  GgufSource(const std::filesystem::path& path, const config::ModelConfig& model)
      : file_(path), model_(model) {
    std::map<std::string, const formats::TensorView*> views;
    for (const formats::TensorView& view : file_.tensors()) views.emplace(view.name, &view);
    for (const TensorSpec& tensor : model_tensors(model_)) {
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
    const formats::TensorView& view = *found->second;
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
  std::map<std::string, const formats::TensorView*> views_;
};

/// The stock LLaMA that a model folds into.
config::ModelConfig folded_model(config::ModelConfig model) {
  config::resolve(model);
  model.binarize = config::Binarize::kNone;
  return model;
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
  check_tokenizer_fits(options.tokenizer, model);
  check_tensors(source, model);
  auto staged = std::make_unique<StagedExport::Impl>(target);
  write_tensors(FoldedTensors(source, model, folding), model, folding.dtype, *staged, options);
  staged->report.directory = staged->target;
  write_file(staged->staging / "README.md",
             model_card_text(model, ExportKind::kGguf, folding, options.card, staged->report));
  staged->list_files();
  return StagedExport(std::move(staged));
}

std::unique_ptr<formats::ModelSource> gguf_source(const std::filesystem::path& file,
                                                  const config::ModelConfig& model) {
  return std::make_unique<GgufSource>(file, folded_model(model));
}

}  // namespace fbi::exporter
