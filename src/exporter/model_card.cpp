#include "exporter/model_card.h"

#include <iomanip>
#include <sstream>
#include <string_view>

#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"

namespace fbi::exporter {
namespace {

/// What a folder of this kind holds of a binarized model.
std::string form_of(const config::ModelConfig& model, ExportKind kind) {
  const std::string scales = model.shift ? "their alpha (`….wscale`) and their beta (`….wbias`)"
                                         : "their alpha (`….wscale`)";
  switch (kind) {
    case ExportKind::kPacked:
      return concat("This folder holds the signs themselves (`….weight_bits`, one bit each), with ",
                    scales, ", for `fbi-run` and `fbi-llm`; other programs cannot load it.");
    case ExportKind::kGguf:
      return "`model.gguf` holds them folded into dense matrices, for llama.cpp.";
    case ExportKind::kGgufBits:
      return "`model.gguf` holds the signs, one bit each, in llama.cpp's type Q1_0; the scales are "
             "folded into the norms and into rows of attn_v and ffn_up. llama.cpp multiplies such "
             "matrices with activations rounded to 8 bits.";
    case ExportKind::kNative:
      return concat("This folder holds the latent weights (`….weight`), with ", scales,
                    ", from which training can go on. Without binarization they are no usable "
                    "model.");
    case ExportKind::kFolded:
      break;
  }
  return "This folder holds them folded into dense matrices: a stock `LlamaForCausalLM`.";
}

std::string summary(const config::ModelConfig& model, ExportKind kind) {
  if (model.binarize == config::Binarize::kNone) {
    return "A LLaMA in full precision, exported by fbi-llm.";
  }
  const std::string what = concat(
      "A fully binarized LLaMA (FBI-LLM, arXiv 2407.07093), exported by fbi-llm: every weight of "
      "the linear layers inside the decoder is ",
      model.shift ? "`beta ± alpha`, one bit, with alpha and beta learned per "
                  : "`±alpha`, one bit, with alpha learned per ");
  const std::string per = model.binarize == config::Binarize::kColumn ? "input column"
                          : model.binarize == config::Binarize::kRow  ? "output row"
                                                                      : "matrix";
  const char* tied =
      model.tie_scales ? "; the q, k and v of a layer share one alpha, and so do gate and up" : "";
  return concat(what, per, tied, ". Embedding, norms and head are full precision.\n\n",
                form_of(model, kind));
}

void add_row(std::ostream& out, std::string_view name, const std::string& value) {
  out << "| " << name << " | " << value << " |\n";
}

std::string fold_rule(const config::ModelConfig& model, const Folding& folding) {
  const bool shift = model.shift;
  if (folding.published_fp16_zeros) {
    return shift ? "fp16(fp16(beta) ± fp16(alpha)), fp16(beta) where the latent weight is 0 in fp16"
                 : "±fp16(alpha), 0 where the latent weight is 0 in fp16";
  }
  switch (folding.dtype) {
    case formats::DType::kF16:
      return shift ? "fp16(fp16(beta) ± fp16(alpha))" : "±fp16(alpha)";
    case formats::DType::kBF16:
      return shift ? "bf16(beta ± alpha)" : "±bf16(alpha)";
    default:
      return shift ? "beta ± alpha in fp32" : "±alpha in fp32";
  }
}

/// What to type in the folder.
std::string usage(const config::ModelConfig& model, ExportKind kind, const ExportOptions& options) {
  const bool tokenizer = options.tokenizer || options.unread_tokenizer;
  const bool binarized = model.binarize != config::Binarize::kNone;
  switch (kind) {
    case ExportKind::kFolded:
      return concat("```python\nfrom transformers import AutoModelForCausalLM",
                    tokenizer ? ", AutoTokenizer" : "",
                    "\n\nmodel = AutoModelForCausalLM.from_pretrained(\".\")\n",
                    tokenizer ? "tokenizer = AutoTokenizer.from_pretrained(\".\")\n" : "", "```\n");
    case ExportKind::kGguf:
    case ExportKind::kGgufBits:
      return tokenizer ? "    llama-cli -m model.gguf\n" : "";  // without one it makes no text
    case ExportKind::kNative:
    case ExportKind::kPacked:
      break;
  }
  return concat("    ", binarized ? "fbi-run" : "fbi-llm", " generate --model .",
                options.tokenizer ? "" : " --tokenizer FILE", " --prompt \"Once upon a time\"\n");
}

}  // namespace

std::string title_of(const ModelCard& card, const ExportReport& report) {
  return card.title.empty() ? report.directory.filename().string() : card.title;
}

std::string model_card_text(const config::ModelConfig& model, ExportKind kind,
                            const Folding& folding, const ExportOptions& options,
                            const ExportReport& report) {
  const ModelCard& card = options.card;
  const config::ModelSize size = config::parameter_counts(model);
  const bool binarized = model.binarize != config::Binarize::kNone;
  std::ostringstream out;
  out << "---\n"
      << (kind == ExportKind::kFolded ? "library_name: transformers\n" : "")
      << "pipeline_tag: text-generation\ntags:\n- llama\n- fbi-llm\n"
      << (binarized ? "- 1-bit\n" : "") << "---\n\n# " << title_of(card, report) << "\n\n"
      << summary(model, kind) << "\n\n|  |  |\n| --- | --- |\n";
  add_row(out, "parameters", format_count(size.total()));
  if (binarized) {
    add_row(out, "of these binarized", format_count(size.binarized));
  }
  add_row(out, "layers, hidden, feed-forward",
          concat(model.num_hidden_layers, ", ", model.hidden_size, ", ", model.intermediate_size));
  add_row(out, "heads, key/value heads",
          concat(model.num_attention_heads, ", ", model.num_key_value_heads));
  add_row(out, "vocabulary, context",
          concat(model.vocab_size, ", ", model.max_position_embeddings));
  add_row(out, "stored as",
          concat(kind == ExportKind::kPacked || kind == ExportKind::kGgufBits
                     ? "signs, embedding and head in "
                     : "",
                 torch_dtype_name(folding.dtype), ", ", std::setprecision(4),
                 report.bits_per_weight, " bits per weight"));
  if (binarized && (kind == ExportKind::kFolded || kind == ExportKind::kGguf)) {
    add_row(out, "weights", fold_rule(model, folding));
    add_row(out, "latent weights exactly 0 (taken as +)", concat(report.zeros.exact));
    add_row(out, "latent weights that are 0 in fp16", concat(report.zeros.fp16));
  }
  if (kind == ExportKind::kGgufBits) {
    add_row(out, "scales", "alpha of attn_output and ffn_down in fp16, of the others in fp32");
    add_row(out, "latent weights exactly 0 (taken as +)", concat(report.zeros.exact));
  }
  if (!report.note.empty()) add_row(out, "note", report.note);
  if (card.step) add_row(out, "optimizer steps", concat(*card.step));
  if (!card.config_hash.empty()) {
    add_row(out, "hash of the run's configuration", "`" + card.config_hash + "`");
  }
  const std::string command = usage(model, kind, options);
  if (!command.empty()) out << "\n" << command;
  return out.str();
}

}  // namespace fbi::exporter
