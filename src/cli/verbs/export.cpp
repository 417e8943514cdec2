#include "fbi/exporter/export.h"

#include <algorithm>
#include <iostream>

#include "cli/export_check.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"
#include "fbi/exporter/fold.h"
#include "fbi/exporter/gguf.h"
#include "fbi/exporter/packed.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/nn/model_folder.h"

namespace fbi::cli {
namespace {

/// A kind of export and what it has of its own.
struct ExportFormat {
  const char* name;
  exporter::StagedExport (*write)(const formats::ModelSource& source,
                                  const config::ModelConfig& model,
                                  const std::filesystem::path& target,
                                  const exporter::Folding& folding,
                                  const exporter::ExportOptions& options);
  decltype(&compare_export) compare;
  formats::DType default_dtype = formats::DType::kF16;  ///< of a binarized model
  const char* allowed_dtype = nullptr;  ///< of --dtype, "" for none; null: what `write` takes
  const char* dtype_refusal = nullptr;  ///< what is said of others
  bool is_bits = false;  ///< one bit per weight: it has no zero, and is held to kPackedTolerance
  bool keeps_latent_weights = false;
};

constexpr ExportFormat kExportFormats[] = {
    {.name = "hf", .write = exporter::export_folded, .compare = compare_export},
    {.name = "native",
     .write =
         [](const auto& source, const auto& model, const auto& target, const auto&,
            const auto& options) {
           return exporter::export_native(source, model, target, options);
         },
     .compare = compare_export,
     .default_dtype = formats::DType::kF32,
     .allowed_dtype = "",
     .dtype_refusal = "a native export is always fp32",
     .keeps_latent_weights = true},
    {.name = "packed",
     .write =
         [](const auto& source, const auto& model, const auto& target, const auto& folding,
            const auto& options) {
           return exporter::export_packed(source, model, target, folding.dtype, options);
         },
     .compare = compare_packed_export,
     .is_bits = true},
    {.name = "gguf", .write = exporter::export_gguf, .compare = compare_gguf_export},
    {.name = "gguf-q1_0",
     .write =
         [](const auto& source, const auto& model, const auto& target, const auto&,
            const auto& options) {
           return exporter::export_gguf_q1_0(source, model, target, options);
         },
     .compare = compare_bits_export,
     .allowed_dtype = "fp16",
     .dtype_refusal = "embedding and head of a gguf-q1_0 export are always fp16",
     .is_bits = true}};

/// "hf, native, packed, gguf or gguf-q1_0"
std::string format_names() {
  std::vector<std::string> names;
  for (const ExportFormat& format : kExportFormats) names.emplace_back(format.name);
  const std::string last = names.back();
  names.pop_back();
  return join(names) + " or " + last;
}

/// The one that --format names, with which the other options agree.
const ExportFormat& format_of(const Arguments& arguments) {
  const std::string name = arguments.text("format");
  const auto* format = std::ranges::find(kExportFormats, name, &ExportFormat::name);
  if (format == std::end(kExportFormats))
    throw UsageError(concat("--format: expected ", format_names(), ", found '", name, "'"));
  if (format->is_bits && arguments.has("published-fp16-zeros"))
    throw UsageError("--published-fp16-zeros: a bit has no zero; use --format hf");
  if (format->keeps_latent_weights)
    arguments.refuse({"published-fp16-zeros"},
                     "rounds to fp16, but a native export is always fp32; use --format hf");
  if (format->allowed_dtype && arguments.has("dtype") &&
      arguments.text("dtype") != format->allowed_dtype)
    throw UsageError(concat("--dtype: ", format->dtype_refusal));
  return *format;
}

/// The tensors of a folder; what a checkpoint says of itself goes onto the model card.
std::unique_ptr<formats::ModelSource> source_of(nn::ModelFolder& folder,
                                                exporter::ModelCard& card) {
  if (folder.kind != "checkpoint") return std::move(folder.weights);
  auto reader = std::make_unique<formats::CheckpointReader>(
      folder.path, /*verify_hash=*/false);  // opening the folder verified it
  card.step = reader->manifest().step;
  card.config_hash = reader->manifest().config_hash;
  return formats::checkpoint_source(std::move(reader));
}

void print_report(const exporter::ExportReport& report, const ExportComparison& comparison,
                  const std::string& dtype) {
  std::cout << report.directory.string() << ": " << report.tensors << " tensors, "
            << format_bytes(report.bytes) << ", " << report.bits_per_weight << " bits per weight ("
            << dtype << ")\n"
            << "reloaded and compared: worst logit difference " << comparison.worst_to_rounded
            << " to the model with the same rounded weights,\n  " << comparison.worst_to_unrounded
            << " to the model as trained (KL " << comparison.kl_to_unrounded
            << " nats per token)\n";
  if (report.zeros.exact || report.zeros.fp16)
    std::cout << "latent weights that are 0: " << report.zeros.exact << " exactly"
              << (report.zeros.fp16 ? concat(", ", report.zeros.fp16, " in fp16") : "") << "\n";
  if (comparison.kl_of_int8_activations)
    std::cout << "llama.cpp rounds the inputs of Q1_0 matrices to int8, 32 at a time: KL "
              << *comparison.kl_of_int8_activations
              << " nats per token more, worst logit difference "
              << comparison.worst_of_int8_activations << "\n";
  if (!report.note.empty()) std::cout << "note: " << report.note << "\n";
  if (!report.tokenizer_note.empty()) std::cout << report.tokenizer_note << "\n";
  for (const std::string& warning : report.warnings) log::warn(warning);
}

exporter::Folding folding_of(const Arguments& arguments, const ExportFormat& format,
                             const config::ModelConfig& model) {
  exporter::Folding folding;
  folding.published_fp16_zeros = arguments.has("published-fp16-zeros");
  const bool dense = model.binarize == config::Binarize::kNone;
  if (dense)
    arguments.refuse({"published-fp16-zeros"},
                     "is about binarized weights, and the model has none");
  folding.dtype = dense ? formats::DType::kF32 : format.default_dtype;
  if (arguments.has("dtype")) folding.dtype = exporter::dtype_from_name(arguments.text("dtype"));
  return folding;
}

/// --tokenizer, or the model's own; null when there is none, and when it is of a kind that this
/// program does not read, with which models may have been trained all the same: then `options` name
/// it.
std::unique_ptr<text::Tokenizer> tokenizer_of(const Arguments& arguments,
                                              const nn::ModelFolder& folder,
                                              exporter::ExportOptions& options) {
  std::unique_ptr<text::Tokenizer> given, own;
  if (arguments.has("tokenizer")) given = text::load_tokenizer(arguments.text("tokenizer"));
  try {
    if (!folder.tokenizer.empty()) own = text::load_tokenizer(folder.tokenizer);
  } catch (const text::OtherTokenizer& error) {
    if (!given)
      options.unread_tokenizer = exporter::UnreadTokenizer{folder.tokenizer, error.what()};
  } catch (const DataError&) {
    if (!given) throw;  // another one is the way around a broken one
  }
  const std::string difference = given && own ? text::difference_of(*own, *given) : "";
  if (!difference.empty())
    log::warn("--tokenizer is not the tokenizer that the model has: ", difference);
  return given ? std::move(given) : std::move(own);
}

/// DataError when the export is too far from the model.
void check_distance(const ExportComparison& comparison, const ExportFormat& format,
                    const exporter::Folding& folding, const std::filesystem::path& target) {
  if (format.is_bits && !(comparison.kl_to_rounded <= kPackedTolerance))
    throw DataError(concat("the reloaded export differs from the model by a KL divergence of ",
                           comparison.kl_to_rounded, " nats per token (at most ", kPackedTolerance,
                           " is allowed); nothing was written to ", target.string()));
  // With published zeros the export differs from the sign rule on purpose; its distance is only
  // printed.
  if (!format.is_bits && !folding.published_fp16_zeros &&
      !(comparison.worst_to_rounded <= kExportTolerance))
    throw DataError(concat("the reloaded export differs from the model by ",
                           comparison.worst_to_rounded, " in its logits (at most ",
                           kExportTolerance, " is allowed); nothing was written to ",
                           target.string()));
}

int run_export(const Arguments& arguments) {
  const ExportFormat& format = format_of(arguments);
  auto folder = nn::open_model_folder(arguments.text("checkpoint"));
  if (format.keeps_latent_weights) nn::require_latent_weights(folder);
  const auto folding = folding_of(arguments, format, folder.config);
  const std::filesystem::path target = arguments.text("out");

  exporter::ExportOptions options;
  const auto tokenizer = tokenizer_of(arguments, folder, options);
  options.tokenizer = tokenizer.get();
  ProgressBar bar;
  options.on_progress = [&](const exporter::ExportProgress& progress) {
    bar.show(progress.tensors_done, progress.tensors_total, "tensors");
  };
  const auto source = source_of(folder, options.card);
  auto staged = format.write(*source, folder.config, target, folding, options);
  bar.clear();
  const auto comparison =
      format.compare(folder.path, staged.path(), nn::torch_dtype(folding.dtype));
  check_distance(comparison, format, folding, target);
  print_report(staged.commit(), comparison, std::string(exporter::torch_dtype_name(folding.dtype)));
  if (!tokenizer && !options.unread_tokenizer)
    log::warn("no tokenizer in ", arguments.text("checkpoint"),
              ", so the export has none: transformers, fbi-run and llama.cpp need one; give "
              "--tokenizer FILE");
  return 0;
}

}  // namespace

Verb export_verb() {
  return {
      "export",
      "write a model for others: Hugging Face, native or packed safetensors, GGUF",
      "hf: a stock LlamaForCausalLM folder in which binarized layers are folded to dense "
      "matrices, loadable by transformers and the "
      "evaluation harness. native: latent weights, scales and shifts under the published "
      "names. packed: one bit per binarized weight, for fbi-run and "
      "for all of fbi-llm but training its weights. gguf: model.gguf with the "
      "folded weights and the tokenizer, for llama.cpp. gguf-q1_0: the same at one bit per "
      "weight, in llama.cpp's own type, for "
      "models trained with model.tie_scales=true and model.shift=false. Every export is "
      "reloaded and its "
      "logits compared before it gets its name.",
      "",
      {{"checkpoint", "DIR", "run directory, checkpoint, export or Hugging Face folder", "", true},
       {"format", "KIND", format_names(), "hf"},
       {"out", "DIR", "folder to make", "", true},
       {"dtype", "TYPE",
        "hf, gguf (fp16 or fp32): of all weights; packed: of embedding and head. fp16, bf16 or "
        "fp32; default: fp16 for binarized models, fp32 for dense ones"},
       {"tokenizer", "FILE",
        "tokenizer.model or tokenizer.json to put beside it; default: the model's own"},
       {"published-fp16-zeros", "",
        "fp16: weights that fp16 rounds to 0 become the shift alone, as in the published "
        "evaluation"}},
      {"fbi-llm export --checkpoint runs/a --format hf --out export/a-hf",
       "fbi-llm export --checkpoint runs/a/checkpoints/step-00001000 --format native --out "
       "export/a-native",
       "fbi-llm export --checkpoint runs/a --format packed --out export/a-packed",
       "fbi-llm export --checkpoint runs/tied --format gguf-q1_0 --out export/tied-gguf"},
      run_export};
}

}  // namespace fbi::cli
