#include "fbi/exporter/gguf.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "config/small_model.h"
#include "exporter/gguf_layout.h"
#include "fbi/config/load.h"
#include "fbi/core/file.h"
#include "fbi/formats/gguf.h"
#include "formats/memory_source.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "text/small_tokenizer.h"

namespace fbi::exporter {
namespace {

using config::small_model;
using config::tied_model;
using formats::DType;
using formats::MemorySource;
using test::expect_error;

/// All values of a source, by name.
std::map<std::string, std::vector<float>> values_of(const formats::ModelSource& source) {
  std::map<std::string, std::vector<float>> all;
  for (const std::string& name : source.names()) {
    std::int64_t count = 1;
    const auto shape = source.shape(name);
    for (const std::int64_t extent : *shape) count *= extent;
    all[name].resize(static_cast<std::size_t>(count));
    source.read(name, all[name]);
  }
  return all;
}

TEST(ExportGguf, HoldsTheWeightsOfTheFoldedExport) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kNone}) {
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      const test::TempDir dir;
      auto model = small_model(binarize);
      const MemorySource source(model);
      const ExportReport report = export_gguf(source, model, dir / "out", {dtype}).commit();
      EXPECT_EQ(report.files, (std::vector<std::string>{"README.md", "model.gguf"}));
      export_folded(source, model, dir / "hf", {dtype}).commit();
      model.binarize = config::Binarize::kNone;
      EXPECT_EQ(values_of(*gguf_source(dir / "out" / kGgufFile, model)),
                values_of(*formats::folder_source(dir / "hf")));
      const formats::GgufFile file(dir / "out" / kGgufFile);
      for (const auto& tensor : file.tensors()) {
        EXPECT_EQ(tensor.type, formats::gguf_type(tensor.shape.size() == 1 ? DType::kF32 : dtype))
            << tensor.name;
      }
      EXPECT_EQ(std::get<std::uint32_t>(file.metadata().at("general.file_type")),
                dtype == DType::kF16 ? 1u : 0u);
    }
  }
}

/// Widths in whole blocks; `key_value_heads` 4: each value head has one query head.
config::ModelConfig block_model(std::int64_t key_value_heads) {
  config::ModelConfig model = tied_model();
  model.hidden_size = 128;
  model.intermediate_size = 256;
  model.num_attention_heads = 4;
  model.num_key_value_heads = key_value_heads;
  model.head_dim = 32;
  return model;
}

float as_half(float x) {
  return formats::half_to_float(formats::float_to_half(x));
}

/// Every tensor of a Q1_0 export against the sentence that docs/formats.md has for it.
void expect_bits(const config::ModelConfig& model, const MemorySource& source,
                 const std::filesystem::path& file, bool output_folds) {
  auto values = values_of(*gguf_source(file, model));
  const std::int64_t group = model.num_attention_heads / model.num_key_value_heads;
  MemorySource given = source;
  for (auto& [name, found] : values) {
    SCOPED_TRACE(name);
    const auto& own = given.values(name);
    ASSERT_EQ(found.size(), own.size());
    const auto of = [&](const char* linear) -> const std::vector<float>& {
      const auto end = name.find("self_attn") != std::string::npos ? name.find("self_attn")
                       : name.find("mlp") != std::string::npos     ? name.find("mlp")
                       : name.find("input") != std::string::npos   ? name.find("input")
                                                                   : name.find("post");
      return given.values(name.substr(0, end) + linear + ".wscale");
    };
    const std::size_t columns = name.ends_with("down_proj.weight") ? 256 : 128;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t row = i / columns, column = i % columns;
      const float sign = own[i] >= 0 ? 1.0f : -1.0f;
      float expected = as_half(own[i]);  // embedding, head
      if (name == "model.norm.weight") expected = own[i];
      if (name.ends_with("input_layernorm.weight")) expected = own[i] * of("self_attn.k_proj")[i];
      if (name.ends_with("post_attention_layernorm.weight"))
        expected = own[i] * of("mlp.up_proj")[i];
      if (name.ends_with("_proj.weight")) expected = sign;
      if (name.ends_with("up_proj.weight")) expected = sign * as_half(of("mlp.down_proj")[row]);
      const std::size_t query_row = row / 32 * static_cast<std::size_t>(group) * 32 + row % 32;
      if (output_folds && name.ends_with("v_proj.weight"))
        expected = sign * as_half(of("self_attn.o_proj")[query_row]);
      if (!output_folds && name.ends_with("o_proj.weight"))
        expected = sign * as_half(of("self_attn.o_proj")[column]);
      ASSERT_EQ(found[i], expected) << i;
    }
  }
}

TEST(ExportGgufBits, FoldsScalesIntoNormsAndRows) {
  const test::TempDir dir;
  const auto model = block_model(4);
  const MemorySource source(model);
  const ExportReport report = export_gguf_q1_0(source, model, dir / "out").commit();
  EXPECT_EQ(report.note, "");
  expect_bits(model, source, dir / "out" / kGgufFile, true);
  const formats::GgufFile file(dir / "out" / kGgufFile);
  EXPECT_EQ(std::get<std::uint32_t>(file.metadata().at("general.file_type")), 40u);
  for (const auto& tensor : file.tensors()) {
    const bool dense = tensor.name.starts_with("token_embd") || tensor.name.starts_with("output.");
    EXPECT_EQ(tensor.type, tensor.shape.size() == 1 ? formats::GgufType::kF32
                           : dense                  ? formats::GgufType::kF16
                                                    : formats::GgufType::kQ1_0)
        << tensor.name;
  }
  // Per layer 4 · 128² + 3 · 128 · 256 weights in 1.125 bits, two norms of 128 in 32.
  const double layer = 4 * 128 * 128 + 3 * 128 * 256, vocabulary = 2 * 29 * 128;
  EXPECT_DOUBLE_EQ(report.bits_per_weight, (2 * layer * 1.125 + vocabulary * 16 + 5 * 128 * 32) /
                                               (2 * layer + vocabulary + 5 * 128));
}

TEST(ExportGgufBits, SharedValueHeads) {
  const test::TempDir dir;
  const auto model = block_model(2);
  MemorySource source(model);
  const ExportReport apart = export_gguf_q1_0(source, model, dir / "apart").commit();
  EXPECT_NE(apart.note.find("2 of 2 layers"), std::string::npos) << apart.note;
  expect_bits(model, source, dir / "apart" / kGgufFile, false);
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    auto& alpha = source.values(std::string(layer) + "self_attn.o_proj.wscale");
    for (std::size_t i = 0; i < alpha.size(); ++i) alpha[i] = alpha[i / 64 * 64 + i % 32];
  }
  const ExportReport equal = export_gguf_q1_0(source, model, dir / "equal").commit();
  EXPECT_EQ(equal.note, "");
  EXPECT_LT(equal.bits_per_weight, apart.bits_per_weight);
  expect_bits(model, source, dir / "equal" / kGgufFile, true);
}

TEST(ExportGgufBits, CountsZerosAndTakesThemAsPlus) {
  const test::TempDir dir;
  const auto model = block_model(4);
  MemorySource source(model);
  source.values("model.layers.0.mlp.gate_proj.weight")[7] = 0;
  EXPECT_EQ(export_gguf_q1_0(source, model, dir / "out").commit().zeros.exact, 1);
  const std::string card = read_file(dir / "out" / "README.md");
  for (const char* part : {"Q1_0", "`±alpha`", "| latent weights exactly 0 (taken as +) | 1 |"}) {
    EXPECT_NE(card.find(part), std::string::npos) << part << card;
  }
  expect_bits(model, source, dir / "out" / kGgufFile, true);
}

TEST(ExportGgufBits, OtherModelsAreRefusedWithTheReason) {
  const test::TempDir dir;
  const auto refused = [&](const config::ModelConfig& model, auto... text) {
    expect_error<UsageError>([&] { export_gguf_q1_0(MemorySource(model), model, dir / "out"); },
                             text...);
    EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  };
  auto model = block_model(4);
  model.shift = true;
  refused(model, "one scale for 128 weights", "found column, true and true", "gguf or packed");
  model.shift = false;
  model.tie_scales = false;
  refused(model, "found column, false and false");
  model = block_model(4);
  model.intermediate_size = 200;
  refused(model, "blocks of 128", "intermediate_size, found 200");
  model = block_model(4);
  MemorySource large(model);
  large.values("model.layers.1.mlp.down_proj.wscale")[9] = 70000;
  expect_error<DataError>([&] { export_gguf_q1_0(large, model, dir / "out"); },
                          "down_proj.wscale[0, 9] is 70000", "too large for F16");
}

TEST(ExportGguf, NamesAndOrderOfRows) {
  EXPECT_EQ(gguf_name("model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(gguf_name("model.norm.weight"), "output_norm.weight");
  EXPECT_EQ(gguf_name("lm_head.weight"), "output.weight");
  EXPECT_EQ(gguf_name("model.layers.11.self_attn.o_proj.weight"), "blk.11.attn_output.weight");
  EXPECT_EQ(gguf_name("model.layers.0.post_attention_layernorm.weight"), "blk.0.ffn_norm.weight");
  expect_error<UsageError>([] { gguf_name("model.layers.0.self_attn.q_proj.wscale"); }, "wscale");
  // Two heads of six rows: of each the rows 0 3, 1 4, 2 5, which the rotary embedding turns
  // together, become neighbours.
  std::vector<std::int64_t> order;
  for (std::int64_t row = 0; row < 12; ++row) order.push_back(source_row(row, 12, 2));
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  const auto model = small_model();
  EXPECT_EQ(permuted_heads("model.layers.0.self_attn.q_proj.weight", model), 4);
  EXPECT_EQ(permuted_heads("model.layers.0.self_attn.k_proj.weight", model), 2);
  EXPECT_EQ(permuted_heads("model.layers.0.self_attn.v_proj.weight", model), 0);
}

TEST(ExportGguf, ScaledRotaryEmbeddings) {
  auto model = small_model();
  config::resolve(model);
  EXPECT_TRUE(rope_factors(model).empty());
  model.head_dim = 8;
  model.rope_theta = 10000;
  model.rope_scaling = {"llama3", 8, 1, 4, 64};
  // Wavelengths 6.28, 62.8, 628, 6283; those below 16 stay, those above 64 are stretched by 8.
  const std::vector<float> factors = rope_factors(model);
  ASSERT_EQ(factors.size(), 4u);
  EXPECT_EQ(factors[0], 1);
  EXPECT_EQ(factors[2], 8);
  EXPECT_EQ(factors[3], 8);
  const double smooth = (64 / 62.83185307179586 - 1) / 3;
  EXPECT_NEAR(factors[1], 1 / ((1 - smooth) / 8 + smooth), 1e-5);
  model.rope_scaling = {"linear", 4, 1, 4, 0};
  const auto metadata = gguf_metadata(model, FileKind::kF32, "t", nullptr);
  const std::pair<std::string, formats::GgufValue> type{"llama.rope.scaling.type",
                                                        std::string("linear")};
  EXPECT_NE(std::find(metadata.begin(), metadata.end(), type), metadata.end());
}

std::filesystem::path byte_level_sample(const char* kind) {
  return std::filesystem::path(__FILE__).parent_path().parent_path() / "text/byte_bpe" / kind;
}

TEST(ExportGguf, ByteLevelTokenizersSayHowTextIsCut) {
  for (const auto& [kind, name] : std::map<const char*, std::string>{
           {"llama3", "llama-bpe"}, {"gpt2", "gpt-2"}, {"smollm", "smollm"}}) {
    const auto tokenizer = text::load_tokenizer(byte_level_sample(kind));
    auto model = small_model(config::Binarize::kNone);
    model.vocab_size = tokenizer->vocab_size();
    const test::TempDir dir;
    ExportOptions options;
    options.tokenizer = tokenizer.get();
    export_gguf(MemorySource(model), model, dir / "out", {DType::kF16}, options).commit();
    const auto metadata = formats::GgufFile(dir / "out" / kGgufFile).metadata();
    EXPECT_EQ(std::get<std::string>(metadata.at("tokenizer.ggml.pre")), name);
  }
}

TEST(ExportGguf, ByteLevelTokenizersKeepTheirMerges) {
  const auto tokenizer = text::load_tokenizer(byte_level_sample("llama3"));
  auto model = small_model(config::Binarize::kNone);
  model.vocab_size = tokenizer->vocab_size() + 2;
  const test::TempDir dir;
  ExportOptions options;
  options.tokenizer = tokenizer.get();
  export_gguf(MemorySource(model), model, dir / "out", {DType::kF16}, options).commit();
  const auto metadata = formats::GgufFile(dir / "out" / kGgufFile).metadata();
  EXPECT_EQ(std::get<std::string>(metadata.at("tokenizer.ggml.model")), "gpt2");
  const auto& tokens = std::get<std::vector<std::string>>(metadata.at("tokenizer.ggml.tokens"));
  EXPECT_EQ(static_cast<std::int64_t>(tokens.size()), model.vocab_size);
  EXPECT_EQ(tokens.back(), concat("[PAD", model.vocab_size - 1, "]"));
  const auto& merges = std::get<std::vector<std::string>>(metadata.at("tokenizer.ggml.merges"));
  ASSERT_EQ(merges.size(), 420u - 256u);
  const auto space = merges[0].find(' ');
  EXPECT_EQ(tokens[256], merges[0].substr(0, space) + merges[0].substr(space + 1))
      << "the first merge makes the first piece";
  EXPECT_EQ(std::get<std::uint32_t>(metadata.at("tokenizer.ggml.eos_token_id")),
            static_cast<std::uint32_t>(tokenizer->eos_id()));
  EXPECT_FALSE(metadata.contains("tokenizer.ggml.unknown_token_id"));
}

/// llama.cpp would read another model's pieces as if they were a BPE's.
TEST(ExportGguf, TokenizersUnlikeLlamasAreNoted) {
  const test::SmallTokenizer& small = test::SmallTokenizer::instance();
  const test::TempDir dir;
  std::string bytes = read_file(small.path());
  const std::string bpe = "\x18\x02\x20";  // TrainerSpec: model_type 2, then vocab_size
  ASSERT_NE(bytes.find(bpe), std::string::npos);
  bytes.replace(bytes.find(bpe), bpe.size(), "\x18\x01\x20");
  test::write_text(dir / "unigram.model", bytes);
  auto model = small_model(config::Binarize::kNone);
  for (const auto& path : {small.path(), dir / "unigram.model"}) {
    const auto tokenizer = text::load_tokenizer(path);
    model.vocab_size = tokenizer->vocab_size();
    ExportOptions options;
    options.tokenizer = tokenizer.get();
    const auto report =
        export_gguf(MemorySource(model), model, dir / path.stem(), {DType::kF16}, options).commit();
    const std::string card = read_file(dir / path.stem() / "README.md");
    const std::string reason = "not like LLaMA's: it is not a BPE model";
    const bool noted = path != small.path();
    EXPECT_EQ(report.note.ends_with(reason), noted) << report.note;
    EXPECT_EQ(card.find(reason) != std::string::npos, noted);
  }
}

TEST(ExportGguf, ATokenizerThatIsNotReadIsRefused) {
  const test::TempDir dir;
  const auto model = small_model();
  ExportOptions options;
  options.unread_tokenizer = UnreadTokenizer{"runs/a/tokenizer.json", "it is a Unigram"};
  expect_error<UsageError>(
      [&] { export_gguf(MemorySource(model), model, dir / "out", {DType::kF16}, options); },
      "holds the pieces of the tokenizer", "it is a Unigram", "as hf");
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
}

TEST(ExportGguf, TheCardHasTheCommandWhereThereIsATokenizer) {
  const test::TempDir dir;
  const auto tokenizer = text::load_tokenizer(test::SmallTokenizer::instance().path());
  auto model = small_model(config::Binarize::kNone);
  model.vocab_size = tokenizer->vocab_size();
  ExportOptions options;
  for (const bool with : {false, true}) {
    options.tokenizer = with ? tokenizer.get() : nullptr;
    const auto out = dir / (with ? "with" : "without");
    export_gguf(MemorySource(model), model, out, {DType::kF16}, options).commit();
    const std::string card = read_file(out / "README.md");
    EXPECT_EQ(card.find("llama-cli -m model.gguf") != std::string::npos, with) << card;
  }
}

TEST(ExportGguf, Refusals) {
  const test::TempDir dir;
  const auto model = small_model();
  expect_error<UsageError>(
      [&] { export_gguf(MemorySource(model), model, dir / "out", {DType::kBF16}); }, "F32 or F16",
      "BF16");
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
}

}  // namespace
}  // namespace fbi::exporter
