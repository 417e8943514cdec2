#include "fbi/exporter/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/small_model.h"
#include "fbi/config/huggingface.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/system.h"
#include "fbi/formats/safetensors.h"
#include "formats/memory_source.h"
#include "support/entries.h"
#include "support/expect_error.h"
#include "support/shared_data.h"
#include "support/temp_dir.h"
#include "support/write_safetensors.h"

namespace fbi::exporter {
namespace {

namespace fs = std::filesystem;
using config::small_model;
using config::tied_model;
using ::fbi::test::entries;
using ::fbi::test::expect_error;
using ::fbi::test::TempDir;
using formats::DType;
using formats::MemorySource;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Role = config::TensorSpec::Role;

const std::string kDown = "model.layers.1.mlp.down_proj.weight";

nlohmann::json read_json(const fs::path& path) {
  return nlohmann::json::parse(read_file(path));
}

/// The tensor's bytes as numbers of type T.
template <class T>
std::vector<T> values_of(const formats::TensorView& view) {
  std::vector<T> values(view.bytes.size() / sizeof(T));
  std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

TEST(ExportNativeTest, KeepsEveryBitUnderThePublishedNames) {
  for (const auto binarize : {config::Binarize::kColumn, config::Binarize::kRow,
                              config::Binarize::kSingle, config::Binarize::kNone}) {
    const TempDir dir;
    MemorySource source(small_model(binarize));
    const ExportReport report = export_native(source, small_model(binarize), dir / "out").commit();
    EXPECT_THAT(report.files, ::testing::Contains("checksums.json"));
    const formats::TensorFolder written(dir / "out");
    EXPECT_EQ(written.names(), source.names());
    for (const auto& [name, tensor] : source.tensors) {
      EXPECT_EQ(written.at(name).dtype, DType::kF32);
      EXPECT_EQ(written.at(name).shape, tensor.shape);
      EXPECT_EQ(values_of<float>(written.at(name)), tensor.values) << name;
    }
    EXPECT_EQ(report.tensors, static_cast<std::int64_t>(source.tensors.size()));
    const config::ModelConfig read =
        config::model_config_from_hf_json(read_file(dir / "out" / "config.json"), "config.json");
    EXPECT_EQ(read, small_model(binarize));
    EXPECT_EQ(read_json(dir / "out" / "config.json").at("model_type"), "llama");
  }
}

TEST(ExportNativeTest, ExportOfAnExportIsTheSameFile) {
  for (const auto& model : {small_model(), tied_model()}) {
    const TempDir dir;
    const MemorySource source(model);
    export_native(source, model, dir / "first").commit();
    const auto read =
        config::model_config_from_hf_json(read_file(dir / "first" / "config.json"), "config.json");
    EXPECT_EQ(read.tie_scales, model.tie_scales);
    EXPECT_EQ(read.shift, model.shift);
    export_native(*formats::folder_source(dir / "first"), read, dir / "second").commit();
    EXPECT_EQ(read_file(dir / "first" / "model.safetensors"),
              read_file(dir / "second" / "model.safetensors"));
  }
}

/// Every tensor of a folded export against the formula, one number at a time.
void expect_folded(const config::ModelConfig& model, DType dtype) {
  const TempDir dir;
  MemorySource source(model);
  export_folded(source, model, dir / "out", {dtype}).commit();
  const formats::TensorFolder written(dir / "out");
  const auto round = [&](float x) -> float {
    if (dtype == DType::kF16) return formats::half_to_float(formats::float_to_half(x));
    if (dtype == DType::kBF16) return formats::bfloat16_to_float(formats::float_to_bfloat16(x));
    return x;
  };
  // Only fp16 rounds alpha and beta before the sum.
  const auto part = [&](float x) { return dtype == DType::kF16 ? round(x) : x; };
  std::size_t tensors = 0;
  for (const config::TensorSpec& spec : config::model_tensors(model)) {
    if (!spec.is_weight()) continue;
    ++tensors;
    const formats::TensorView& view = written.at(spec.name);
    EXPECT_EQ(view.dtype, dtype);
    EXPECT_EQ(view.shape, spec.shape);
    std::vector<float> found(static_cast<std::size_t>(spec.numel()));
    formats::to_float(view, found);
    const std::vector<float>& values = source.values(spec.name);
    for (std::int64_t n = 0; n < spec.numel(); ++n) {
      float expected = round(values[n]);
      if (spec.role == Role::kLatent) {
        const auto strides = kernels::ScaleStrides::of(model.binarize);
        const std::int64_t k = n / spec.shape[1] * strides.row + n % spec.shape[1] * strides.column;
        const float alpha = part(source.values(config::scale_name(spec.name))[k]);
        const float beta = model.shift ? part(source.values(config::shift_name(spec.name))[k]) : 0;
        expected = round(values[n] >= 0 ? beta + alpha : beta - alpha);
      }
      ASSERT_EQ(std::bit_cast<std::uint32_t>(found[n]), std::bit_cast<std::uint32_t>(expected))
          << spec.name << " " << n;
    }
  }
  EXPECT_EQ(written.names().size(), tensors);
}

TEST(ExportFoldedTest, EqualsTheScalarFormula) {
  for (const auto binarize : {config::Binarize::kColumn, config::Binarize::kRow,
                              config::Binarize::kSingle, config::Binarize::kNone}) {
    for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      expect_folded(small_model(binarize), dtype);
    }
  }
  expect_folded(tied_model(), DType::kF16);
}

TEST(ExportFoldedTest, IsAStockLlama) {
  const TempDir dir;
  config::ModelConfig model = small_model();
  model.pad_token_id = 0;
  model.eos_token_id = {2, 5};
  const MemorySource source(model);
  const ExportReport report = export_folded(source, model, dir / "out").commit();
  EXPECT_THAT(report.files, ElementsAre("README.md", "config.json", "generation_config.json",
                                        "model.safetensors"));
  const auto config = read_json(dir / "out" / "config.json");
  EXPECT_EQ(config.at("architectures"), nlohmann::json({"LlamaForCausalLM"}));
  EXPECT_EQ(config.at("model_type"), "llama");
  EXPECT_EQ(config.at("torch_dtype"), "float16");
  EXPECT_FALSE(config.contains("binarize"));
  const auto generation = read_json(dir / "out" / "generation_config.json");
  EXPECT_EQ(generation.at("bos_token_id"), 1);
  EXPECT_EQ(generation.at("eos_token_id"), nlohmann::json({2, 5}));
  EXPECT_EQ(generation.at("pad_token_id"), 0);
  EXPECT_THAT(read_file(dir / "out" / "model.safetensors").substr(8, 40),
              HasSubstr(R"("format":"pt")"));
}

TEST(ExportFoldedTest, ATiedHeadIsNotRepeated) {
  const TempDir dir;
  config::ModelConfig model = small_model();
  model.tie_word_embeddings = true;
  const MemorySource source(model);
  export_folded(source, model, dir / "out").commit();
  EXPECT_EQ(formats::TensorFolder(dir / "out").find("lm_head.weight"), nullptr);
  EXPECT_EQ(read_json(dir / "out" / "config.json").at("tie_word_embeddings"), true);
}

TEST(ExportFoldedTest, ZerosAreCountedAndTakenAsPublishedOnRequest) {
  const TempDir dir;
  MemorySource source(small_model());
  const float alpha = source.values(config::scale_name(kDown))[3],
              beta = source.values(config::shift_name(kDown))[3];
  source.values(kDown)[3] = 0.0f;            // row 0, column 3
  source.values(kDown)[20 + 3] = -0x1p-25f;  // row 1, column 3
  const auto half = [](float x) { return formats::half_to_float(formats::float_to_half(x)); };
  const auto weights = [](const fs::path& folder) {
    std::vector<float> values(12 * 20);
    formats::to_float(formats::TensorFolder(folder).at(kDown), values);
    return values;
  };

  const ExportReport bits = export_folded(source, small_model(), dir / "bits").commit();
  EXPECT_EQ(bits.zeros.exact, 1);
  EXPECT_EQ(bits.zeros.fp16, 2);
  EXPECT_EQ(weights(dir / "bits")[3], half(half(beta) + half(alpha)));
  EXPECT_EQ(weights(dir / "bits")[23], half(half(beta) - half(alpha)));

  const ExportReport published =
      export_folded(source, small_model(), dir / "published", {DType::kF16, true}).commit();
  EXPECT_EQ(published.zeros.exact, 1);
  EXPECT_EQ(published.zeros.fp16, 2);
  EXPECT_EQ(weights(dir / "published")[3], half(beta));
  EXPECT_EQ(weights(dir / "published")[23], half(beta));
  EXPECT_EQ(weights(dir / "published")[4], weights(dir / "bits")[4]);

  expect_error<UsageError>(
      [&] {
        export_folded(source, small_model(), dir / "x", {DType::kF32, true});
      },
      "published_fp16_zeros");
  EXPECT_FALSE(fs::exists(dir / "x"));
}

TEST(ExportTest, LargeModelsAreCutIntoFilesWithAnIndex) {
  const TempDir dir;
  const MemorySource source(small_model());
  const ExportOptions options{.max_shard_bytes = 1000};  // the embedding alone has 1392
  const ExportReport report = export_native(source, small_model(), dir / "cut", options).commit();
  export_native(source, small_model(), dir / "whole").commit();
  const formats::TensorFolder cut(dir / "cut"), whole(dir / "whole");
  EXPECT_EQ(cut.names(), whole.names());
  std::uint64_t total = 0;
  for (const std::string& name : whole.names()) {
    EXPECT_EQ(values_of<float>(cut.at(name)), values_of<float>(whole.at(name)));
    total += whole.at(name).bytes.size();
  }
  const auto index = read_json(dir / "cut" / "model.safetensors.index.json");
  EXPECT_EQ(index.at("metadata").at("total_size"), total);
  EXPECT_FALSE(fs::exists(dir / "cut" / "model.safetensors"));
  const std::string last = index.at("weight_map").at("lm_head.weight");
  const auto files = std::ranges::count_if(
      report.files, [](const std::string& file) { return file.ends_with(".safetensors"); });
  EXPECT_THAT(last, HasSubstr("-of-000" + std::to_string(files) + ".safetensors"));
  for (const std::string& file : report.files) {
    if (!file.ends_with(".safetensors")) continue;
    const formats::SafetensorsFile shard(dir / "cut" / file);
    std::uint64_t bytes = 0;
    for (const auto& tensor : shard.tensors()) bytes += tensor.bytes.size();
    EXPECT_TRUE(bytes <= 1000 || shard.tensors().size() == 1) << file;
  }
}

TEST(ExportTest, ReportSaysWhatWasWritten) {
  const TempDir dir;
  const MemorySource source(small_model());
  std::vector<std::int64_t> progress;
  ExportOptions options;
  options.on_progress = [&](const ExportProgress& p) {
    progress.push_back(p.tensors_done);
    EXPECT_EQ(p.tensors_total, 3 + 2 * 9);
  };
  const ExportReport folded =
      export_folded(source, small_model(), dir / "hf", {DType::kF16}, options).commit();
  EXPECT_EQ(folded.directory, dir / "hf");
  EXPECT_EQ(folded.tensors, 3 + 2 * 9);
  EXPECT_EQ(progress.size(), 3u + 2 * 9);
  EXPECT_DOUBLE_EQ(folded.bits_per_weight, 16.0);
  std::uint64_t bytes = 0;
  for (const auto& file : entries(dir / "hf")) bytes += fs::file_size(dir / "hf" / file);
  EXPECT_EQ(folded.bytes, bytes);
  // Scales and shifts come on top of 32 bits per weight.
  const ExportReport native = export_native(source, small_model(), dir / "native").commit();
  EXPECT_EQ(native.weights, folded.weights);
  EXPECT_GT(native.bits_per_weight, 32.0);
}

TEST(ExportTest, NothingAppearsUnderTheTargetBeforeCommit) {
  const TempDir dir;
  const MemorySource source(small_model());
  {
    StagedExport staged = export_folded(source, small_model(), dir / "deep" / "out");
    EXPECT_FALSE(fs::exists(dir / "deep" / "out"));
    EXPECT_EQ(formats::TensorFolder(staged.path()).names().size(), 3u + 2 * 9);
    EXPECT_EQ(staged.report().tensors, 3 + 2 * 9);
  }
  EXPECT_THAT(entries(dir / "deep"), ElementsAre());  // not committed: gone
  StagedExport staged = export_folded(source, small_model(), dir / "deep" / "out" / "");
  staged.commit();
  EXPECT_EQ(staged.path(), dir / "deep" / "out");
  EXPECT_THAT(entries(dir / "deep"), ElementsAre("out"));
}

TEST(ExportTest, LeftoversOfAKilledExportAreReplaced) {
  const TempDir dir;
  const MemorySource source(small_model());
  const fs::path left = dir / concat(".tmp-out-", host_name(), "-999999999-1");
  fs::create_directories(left);
  write_file(left / "model-00001-of-00002.safetensors", "half a file");
  fs::create_directories(dir / "out");  // an empty target is fine
  const ExportReport report = export_native(source, small_model(), dir / "out").commit();
  EXPECT_THAT(report.files, Not(::testing::Contains("model-00001-of-00002.safetensors")));
  EXPECT_THAT(entries(dir.path()), ElementsAre("out"));
}

TEST(ExportTest, ATargetThatAnotherProcessMadeMeanwhileStays) {
  const TempDir dir;
  const MemorySource source(small_model());
  {
    StagedExport staged = export_native(source, small_model(), dir / "out");
    fs::create_directories(dir / "out");
    write_file(dir / "out" / "model.safetensors", "theirs");
    expect_error<UsageError>([&] { staged.commit(); }, (dir / "out").string(),
                             "another process meanwhile", "choose another target");
  }
  EXPECT_EQ(read_file(dir / "out" / "model.safetensors"), "theirs");
  EXPECT_THAT(entries(dir.path()), ElementsAre("out"));
}

TEST(ExportTest, AUsedTargetIsRefusedUntouched) {
  const TempDir dir;
  const MemorySource source(small_model());
  fs::create_directories(dir / "used");
  write_file(dir / "used" / "notes.txt", "mine");
  write_file(dir / "file", "mine");
  expect_error<UsageError>([&] { export_native(source, small_model(), dir / "used"); },
                           (dir / "used").string(), "not empty", "another target");
  EXPECT_THAT(entries(dir / "used"), ElementsAre("notes.txt"));
  expect_error<UsageError>([&] { export_native(source, small_model(), dir / "file"); },
                           "is not a folder");
  expect_error<UsageError>([&] { export_native(source, small_model(), ""); }, "no target folder");
  expect_error<UsageError>([&] { export_native(source, small_model(), "/"); }, "not empty");
}

TEST(ExportTest, ATargetBelowAFileIsADiskError) {
  const TempDir dir;
  const MemorySource source(small_model());
  write_file(dir / "file", "mine");
  expect_error<DiskError>([&] { export_native(source, small_model(), dir / "file" / "out"); },
                          (dir / "file").string());
}

TEST(ExportTest, ValuesThatAreNotFiniteAreRefusedByName) {
  const TempDir dir;
  for (const std::string& name :
       {kDown, config::scale_name(kDown), config::shift_name(kDown),
        std::string("model.norm.weight"), std::string("model.embed_tokens.weight")}) {
    MemorySource source(small_model());
    source.values(name)[7] = std::numeric_limits<float>::quiet_NaN();
    expect_error<DataError>([&] { export_folded(source, small_model(), dir / "out"); }, name,
                            "nan in MEMORY", "not finite");
    expect_error<DataError>([&] { export_native(source, small_model(), dir / "out"); }, name);
    source.values(name)[7] = -std::numeric_limits<float>::infinity();
    expect_error<DataError>([&] { export_folded(source, small_model(), dir / "out"); }, name,
                            "-inf");
  }
  MemorySource source(small_model());
  source.values(kDown)[2 * 20 + 17] = NAN;
  expect_error<DataError>([&] { export_native(source, small_model(), dir / "out"); },
                          kDown + "[2, 17] is nan");
  EXPECT_THAT(entries(dir.path()), ElementsAre());
}

TEST(ExportTest, ValuesThatDoNotFitTheDtypeAreRefusedByName) {
  const TempDir dir;
  MemorySource source(small_model());
  source.values("model.norm.weight")[3] = 70000;
  expect_error<DataError>([&] { export_folded(source, small_model(), dir / "out"); },
                          "model.norm.weight[3] is 70000", "too large for F16", "another dtype");
  export_folded(source, small_model(), dir / "bf16", {DType::kBF16}).commit();
  MemorySource sum(small_model());
  sum.values(config::scale_name(kDown))[4] = 40000;
  sum.values(config::shift_name(kDown))[4] = -40000;
  expect_error<DataError>([&] { export_folded(sum, small_model(), dir / "out"); }, kDown,
                          "-40000 ± 40000", "F16");
}

TEST(ExportTest, TensorsThatDoNotFitTheModelAreRefused) {
  const TempDir dir;
  MemorySource source(small_model());
  source.tensors.erase(config::shift_name(kDown));
  expect_error<DataError>([&] { export_folded(source, small_model(), dir / "out"); },
                          "missing: model.layers.1.mlp.down_proj.wbias [1, 20]");
  MemorySource wrong(small_model());
  wrong.tensors[kDown].shape = {20, 12};
  expect_error<DataError>([&] { export_native(wrong, small_model(), dir / "out"); },
                          kDown + ": expected [12, 20], found [20, 12]");
  EXPECT_THAT(entries(dir.path()), ElementsAre());
}

TEST(ExportTest, ModelCardSaysWhatItIs) {
  const TempDir dir;
  const MemorySource source(small_model());
  ExportOptions options;
  options.card = {.title = "Small", .config_hash = "0123abcd", .step = 1234};
  export_folded(source, small_model(), dir / "out", {}, options).commit();
  const std::string card = read_file(dir / "out" / "README.md");
  for (const char* part : {"# Small", "LlamaForCausalLM", "fp16(fp16(beta) ± fp16(alpha))",
                           "0123abcd", "| optimizer steps | 1234 |", "per input column",
                           "library_name: transformers", "AutoModelForCausalLM.from_pretrained"}) {
    EXPECT_THAT(card, HasSubstr(part));
  }
  EXPECT_THAT(card, Not(HasSubstr("AutoTokenizer"))) << "there is none";
  export_native(source, small_model(), dir / "bare").commit();
  const std::string bare = read_file(dir / "bare" / "README.md");
  for (const char* part : {"# bare", "latent weights", "`….wbias`", "fbi-run generate --model ."}) {
    EXPECT_THAT(bare, HasSubstr(part));
  }
  EXPECT_THAT(bare, Not(HasSubstr("share one alpha")));
}

TEST(ExportTest, ModelCardFollowsTheScales) {
  const TempDir dir;
  const config::ModelConfig model = tied_model();
  const MemorySource source(model);
  const auto card = [&](const char* folder) { return read_file(dir / folder / "README.md"); };
  export_folded(source, model, dir / "hf").commit();
  export_native(source, model, dir / "native").commit();
  for (const char* folder : {"hf", "native"}) {
    EXPECT_THAT(card(folder), HasSubstr("q, k and v of a layer share one alpha"));
    EXPECT_THAT(card(folder), HasSubstr("`±alpha`"));
    EXPECT_THAT(card(folder), Not(HasSubstr("beta")));
  }
  EXPECT_THAT(card("hf"), HasSubstr("| weights | ±fp16(alpha) |"));
  const config::ModelConfig dense = small_model(config::Binarize::kNone);
  export_native(MemorySource(dense), dense, dir / "dense").commit();
  EXPECT_THAT(card("dense"), HasSubstr("fbi-llm generate --model . --tokenizer FILE"))
      << "fbi-run takes binarized models only";
}

TEST(ExportTest, SpecialTokensThatAreNotTheTokenizersAreNoted) {
  const TempDir dir;
  const auto tokenizer =
      text::load_tokenizer(fs::path(__FILE__).parent_path().parent_path() / "text/byte_bpe/llama3");
  config::ModelConfig model = small_model();
  model.vocab_size = tokenizer->vocab_size();
  model.bos_token_id = tokenizer->bos_id();
  model.eos_token_id = {5, tokenizer->eos_id()};
  ExportOptions options;
  options.tokenizer = tokenizer.get();
  const auto warnings = [&](const char* folder) {
    return export_folded(MemorySource(model), model, dir / folder, {}, options).commit().warnings;
  };
  EXPECT_THAT(warnings("same"), ElementsAre());
  model.bos_token_id = 1;
  model.eos_token_id = {2, 5};
  EXPECT_THAT(
      warnings("other"),
      ElementsAre(
          concat("the tokenizer ", tokenizer->path().string(), ": its BOS is ", tokenizer->bos_id(),
                 ", but model.bos_token_id is 1, which config.json and ",
                 "generation_config.json of the export have; they tell others where a ",
                 "text ends"),
          HasSubstr(concat("its EOS is ", tokenizer->eos_id(),
                           ", but model.eos_token_id is [2,5], which"))));
  EXPECT_THAT(read_file(dir / "same" / "README.md"), HasSubstr("AutoTokenizer.from_pretrained"));
}

TEST(ExportTest, ATokenizerThatIsNotReadIsCopied) {
  const TempDir dir;
  const MemorySource source(small_model());
  fs::create_directories(dir / "from");
  write_file(dir / "from" / "tokenizer.json", "{\"model\": {\"type\": \"Unigram\"}}");
  write_file(dir / "from" / "tokenizer_config.json", "{}");
  write_file(dir / "from" / "notes.txt", "mine");
  ExportOptions options;
  options.unread_tokenizer = UnreadTokenizer{dir / "from" / "tokenizer.json", "it is a Unigram"};
  const ExportReport report =
      export_folded(source, small_model(), dir / "out", {}, options).commit();
  EXPECT_THAT(report.warnings,
              ElementsAre(AllOf(HasSubstr("copied as they are"), HasSubstr("it is a Unigram"))));
  EXPECT_THAT(report.files,
              ElementsAre("README.md", "config.json", "generation_config.json", "model.safetensors",
                          "tokenizer.json", "tokenizer_config.json"));
  EXPECT_EQ(read_file(dir / "out" / "tokenizer.json"), read_file(dir / "from" / "tokenizer.json"));
  EXPECT_THAT(read_file(dir / "out" / "README.md"), HasSubstr("AutoTokenizer"));
}

TEST(ExportTest, TokenizerComesAlong) {
  FBI_SHARED_OR_SKIP(model_file, "data/llama2-tokenizer.model");
  const TempDir dir;
  const auto tokenizer = text::load_tokenizer(model_file);
  config::ModelConfig model = small_model();
  const MemorySource small(model);
  ExportOptions options;
  options.tokenizer = tokenizer.get();
  expect_error<UsageError>([&] { export_folded(small, model, dir / "out", {}, options); },
                           "32000 pieces", "vocabulary 29", "another model");
  model.vocab_size = 32000;
  const MemorySource source(model);
  const ExportReport report = export_folded(source, model, dir / "out", {}, options).commit();
  EXPECT_EQ(read_file(dir / "out" / "tokenizer.model"), tokenizer->file_bytes());
  EXPECT_THAT(report.files, ::testing::IsSupersetOf({"tokenizer.json", "tokenizer_config.json",
                                                     "special_tokens_map.json"}));
  EXPECT_EQ(report.tokenizer_note, "");
  EXPECT_EQ(read_json(dir / "out" / "tokenizer_config.json").at("model_max_length"), 32);
}

/// A checkpoint lists the optimizer's moments beside the parameters; they are no part of the model.
TEST(CheckpointSourceTest, LeavesTheOptimizerOut) {
  const TempDir dir;
  MemorySource source(small_model());
  export_native(source, small_model(), dir / "native").commit();
  std::vector<formats::TensorView> tensors;
  const formats::TensorFolder native(dir / "native");
  for (const std::string& name : native.names()) {
    tensors.push_back(native.at(name));
    tensors.push_back(native.at(name));
    tensors.back().name = "optimizer.exp_avg." + name;
  }
  const fs::path folder = dir / formats::checkpoint_folder_name(7);
  fs::create_directories(folder);
  const auto file = test::write_safetensors(folder / "shard-r00000-00000.safetensors", tensors);
  formats::CheckpointManifest manifest;
  manifest.step = 7;
  manifest.shards = {{"shard-r00000-00000.safetensors", file.bytes, file.xxh3_128}};
  write_file(folder / "manifest.json", formats::manifest_to_json(manifest));

  const auto checkpoint =
      formats::checkpoint_source(std::make_unique<formats::CheckpointReader>(folder));
  EXPECT_EQ(checkpoint->names(), source.names());
  EXPECT_EQ(checkpoint->description(), folder.string());
  export_native(*checkpoint, small_model(), dir / "again").commit();
  EXPECT_EQ(read_file(dir / "again" / "model.safetensors"),
            read_file(dir / "native" / "model.safetensors"));
}

}  // namespace
}  // namespace fbi::exporter
