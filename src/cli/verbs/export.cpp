#include "fbi/exporter/export.h"

#include <iostream>

#include "cli/export_check.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/exporter/fold.h"
#include "fbi/exporter/gguf.h"
#include "fbi/exporter/model_tensors.h"
#include "fbi/exporter/packed.h"
#include "fbi/nn/model_folder.h"

namespace fbi::cli {
namespace {

at::ScalarType scalar_type(formats::DType dtype) {
  if (dtype == formats::DType::kF16) return at::kHalf;
  return dtype == formats::DType::kBF16 ? at::kBFloat16 : at::kFloat;
}

/// The tensors of a folder; what a checkpoint says of itself goes onto the model card.
std::unique_ptr<formats::ModelSource> source_of(const nn::ModelFolder& folder,
                                                exporter::ModelCard& card) {
  if (folder.kind != "checkpoint") return formats::folder_source(folder.path);
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
  if (!report.tokenizer_note.empty())
    std::cout << "tokenizer.json left out: " << report.tokenizer_note << "\n";
}

int run_export(const Arguments& arguments) {
  const std::string format = arguments.text("format");
  if (format != "hf" && format != "native" && format != "packed" && format != "gguf" &&
      format != "gguf-q1_0")
    throw UsageError(
        concat("--format: expected hf, native, packed, gguf or gguf-q1_0, found '", format, "'"));
  const bool native = format == "native", packed = format == "packed", gguf = format == "gguf",
             bits = format == "gguf-q1_0";
  if ((packed || bits) && arguments.has("published-fp16-zeros"))
    throw UsageError("--published-fp16-zeros: a bit has no zero; use --format hf");
  if (native && arguments.has("dtype")) throw UsageError("--dtype: a native export is always fp32");
  if (bits && arguments.has("dtype") && arguments.text("dtype") != "fp16")
    throw UsageError("--dtype: embedding and head of a gguf-q1_0 export are always fp16");
  const auto folder = nn::open_model_folder(arguments.text("checkpoint"));
  const bool dense = folder.config.binarize == config::Binarize::kNone;

  exporter::Folding folding;
  folding.published_fp16_zeros = arguments.has("published-fp16-zeros");
  if (arguments.has("dtype"))
    folding.dtype = exporter::dtype_from_name(arguments.text("dtype"));
  else if (native || dense)
    folding.dtype = formats::DType::kF32;

  exporter::ExportOptions options;
  std::unique_ptr<text::Tokenizer> tokenizer;
  const std::filesystem::path tokenizer_path =
      arguments.has("tokenizer") ? std::filesystem::path(arguments.text("tokenizer"))
                                 : folder.tokenizer;
  if (!tokenizer_path.empty()) tokenizer = text::load_tokenizer(tokenizer_path);
  options.tokenizer = tokenizer.get();
  ProgressBar bar;
  options.on_progress = [&](const exporter::ExportProgress& progress) {
    bar.show(progress.tensors_done, progress.tensors_total, "tensors");
  };

  const auto source = source_of(folder, options.card);
  const std::filesystem::path target = arguments.text("out");
  auto staged =
      native   ? exporter::export_native(*source, folder.config, target, options)
      : packed ? exporter::export_packed(*source, folder.config, target, folding.dtype, options)
      : bits   ? exporter::export_gguf_q1_0(*source, folder.config, target, options)
      : gguf   ? exporter::export_gguf(*source, folder.config, target, folding, options)
               : exporter::export_folded(*source, folder.config, target, folding, options);
  bar.clear();
  const auto compare = packed ? compare_packed_export
                       : bits ? compare_bits_export
                       : gguf ? compare_gguf_export
                              : compare_export;
  const auto comparison = compare(folder.path, staged.path(), scalar_type(folding.dtype));
  if ((packed || bits) && !(comparison.kl_to_rounded <= kPackedTolerance))
    throw DataError(concat("the reloaded export differs from the model by a KL divergence of ",
                           comparison.kl_to_rounded, " nats per token (at most ", kPackedTolerance,
                           " is allowed); nothing was written to ", target.string()));
  // With published zeros the export differs from the sign rule on purpose; its distance is only
  // printed.
  if (!packed && !bits && !folding.published_fp16_zeros &&
      !(comparison.worst_to_rounded <= kExportTolerance))
    throw DataError(concat("the reloaded export differs from the model by ",
                           comparison.worst_to_rounded, " in its logits (at most ",
                           kExportTolerance, " is allowed); nothing was written to ",
                           target.string()));
  print_report(staged.commit(), comparison, std::string(exporter::torch_dtype_name(folding.dtype)));
  return 0;
}

}  // namespace

Verb export_verb() {
  return {"export",
          "write a model for others: Hugging Face, native or packed safetensors, GGUF",
          "hf: a stock LlamaForCausalLM folder in which binarized layers are folded to dense "
          "matrices, loadable by transformers and the "
          "evaluation harness. native: latent weights, scales and shifts under the published "
          "names. packed: one bit per binarized weight, for fbi-run and "
          "for generate, serve, bench and eval perplexity of fbi-llm. gguf: model.gguf with the "
          "folded weights and the tokenizer, for llama.cpp. gguf-q1_0: the same at one bit per "
          "weight, in llama.cpp's own type, for "
          "models trained with model.tie_scales=true and model.shift=false. Every export is "
          "reloaded and its "
          "logits compared before it gets its name.",
          "",
          {{"checkpoint", "DIR", "run directory, checkpoint, export or Hugging Face folder", "",
            true, false},
           {"format", "KIND", "hf, native, packed, gguf or gguf-q1_0", "hf", false, false},
           {"out", "DIR", "folder to make", "", true, false},
           {"dtype", "TYPE",
            "hf, gguf (fp16 or fp32): of all weights; packed: of embedding and head. fp16, bf16 or "
            "fp32; default: fp16 for binarized models, fp32 for dense ones",
            "", false, false},
           {"tokenizer", "FILE",
            "tokenizer.model or tokenizer.json to put beside it; default: the model's own", "",
            false, false},
           {"published-fp16-zeros", "",
            "fp16: weights that fp16 rounds to 0 become the shift alone, as in the published "
            "evaluation",
            "", false, false}},
          {"fbi-llm export --checkpoint runs/a --format hf --out export/a-hf",
           "fbi-llm export --checkpoint runs/a/checkpoints/step-00001000 --format native --out "
           "export/a-native",
           "fbi-llm export --checkpoint runs/a --format packed --out export/a-packed",
           "fbi-llm export --checkpoint runs/tied --format gguf-q1_0 --out export/tied-gguf"},
          run_export};
}

}  // namespace fbi::cli
