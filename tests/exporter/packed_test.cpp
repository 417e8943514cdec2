#include "fbi/exporter/packed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "config/small_model.h"
#include "fbi/config/huggingface.h"
#include "fbi/core/file.h"
#include "fbi/formats/checksums.h"
#include "formats/memory_source.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::exporter {
namespace {

using config::small_model;
using ::fbi::test::expect_error;
using ::fbi::test::TempDir;
using formats::DType;
using formats::MemorySource;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Role = config::TensorSpec::Role;

std::vector<float> floats(const formats::TensorView& view) {
  std::vector<float> values(static_cast<std::size_t>(view.numel()));
  formats::to_float(view, values);
  return values;
}

TEST(ExportPackedTest, HoldsSignsScalesAndTheDenseRest) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    const TempDir dir;
    const config::ModelConfig model = small_model(binarize);
    MemorySource source(model);
    const ExportReport report = export_packed(source, model, dir / "out", DType::kF32).commit();
    const formats::TensorFolder written(dir / "out");
    EXPECT_EQ(written.names().size(), source.tensors.size());
    for (const config::TensorSpec& spec : config::model_tensors(model)) {
      const std::vector<float>& values = source.values(spec.name);
      if (spec.role != Role::kLatent) {
        EXPECT_EQ(floats(written.at(spec.name)), values) << spec.name;
        EXPECT_EQ(written.at(spec.name).shape, spec.shape);
        continue;
      }
      const formats::TensorView& view = written.at(spec.name + "_bits");
      const std::int64_t columns = spec.shape[1], stride = (columns + 7) / 8;
      ASSERT_EQ(view.dtype, DType::kU8);
      ASSERT_EQ(view.shape, (std::vector<std::int64_t>{spec.shape[0], stride}));
      for (std::int64_t o = 0; o < spec.shape[0]; ++o) {
        for (std::int64_t bit = 0; bit < 8 * stride; ++bit) {
          const auto byte = std::to_integer<unsigned>(view.bytes[o * stride + bit / 8]);
          const bool expected = bit < columns && values[o * columns + bit] >= 0;
          ASSERT_EQ(byte >> (bit % 8) & 1, expected) << spec.name << " " << o << " " << bit;
        }
      }
    }
    EXPECT_EQ(report.tensors, static_cast<std::int64_t>(source.tensors.size()));
    EXPECT_EQ(config::model_config_from_hf_json(read_file(dir / "out" / "config.json"), "c"),
              model);
    EXPECT_THAT(read_file(dir / "out" / "README.md"), HasSubstr("weight_bits"));
  }
}

TEST(ExportPackedTest, IsASourceOfSignsAndScales) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    const TempDir dir;
    const config::ModelConfig model = small_model(binarize);
    MemorySource original(model);
    export_packed(original, model, dir / "out", DType::kF32).commit();
    const auto packed = formats::packed_source(dir / "out", model);
    formats::check_tensors(*packed, model, formats::Scales::kRequired);
    for (const config::TensorSpec& spec : config::model_tensors(model)) {
      std::vector<float> expected = original.values(spec.name), found(expected.size());
      if (spec.role == Role::kLatent)
        for (float& value : expected) value = value >= 0 ? 1.0f : -1.0f;
      packed->read(spec.name, found);
      EXPECT_EQ(found, expected) << spec.name;
    }
  }
}

TEST(ExportPackedTest, SignsOfAnotherModelDoNotFit) {
  const TempDir dir;
  export_packed(MemorySource(small_model()), small_model(), dir / "out").commit();
  config::ModelConfig other = small_model();
  other.intermediate_size = 40;
  const auto packed = formats::packed_source(dir / "out", other);
  expect_error<DataError>(
      [&] { formats::check_tensors(*packed, other, formats::Scales::kRequired); },
      "model.layers.1.mlp.down_proj.weight: expected [12, 40], found [12, 3]");
  std::vector<float> none(1);
  expect_error<DataError>([&] { packed->read("model.layers.9.mlp.down_proj.weight", none); },
                          "model.layers.9.mlp.down_proj.weight");
}

TEST(ExportPackedTest, IsNoLlamaForTransformers) {
  const TempDir dir;
  export_packed(MemorySource(small_model()), small_model(), dir / "out").commit();
  EXPECT_THAT(read_file(dir / "out" / "README.md"), Not(HasSubstr("library_name")));
  const std::string packed = read_file(dir / "out" / "config.json");
  EXPECT_THAT(packed, HasSubstr("\"FbiLlamaForCausalLM\""));
  EXPECT_THAT(packed, HasSubstr("\"model_type\": \"fbi_llama\""));
  // As exports were written before they had a name of their own.
  const std::string older = config::model_config_to_hf_json(small_model(), "float16");
  EXPECT_THAT(older, HasSubstr("\"model_type\": \"llama\""));
  for (const std::string& text : {packed, older}) {
    EXPECT_EQ(config::model_config_from_hf_json(text, "c"), small_model());
  }
}

TEST(ExportPackedTest, RoundsOnlyEmbeddingAndHead) {
  const TempDir dir;
  const config::ModelConfig model = small_model();
  const MemorySource source(model);
  export_packed(source, model, dir / "out").commit();
  const formats::TensorFolder written(dir / "out");
  for (const std::string& name : written.names()) {
    const bool rounded = name == "lm_head.weight" || name == "model.embed_tokens.weight";
    const bool bits = name.ends_with("weight_bits");
    EXPECT_EQ(written.at(name).dtype, rounded ? DType::kF16
                                      : bits  ? DType::kU8
                                              : DType::kF32)
        << name;
  }
}

TEST(ExportPackedTest, CountsZerosAndTakesThemAsPlus) {
  const TempDir dir;
  const config::ModelConfig model = small_model();
  MemorySource source(model);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  source.values(name)[0] = 0.0f;
  source.values(name)[1] = -0.0f;
  const ExportReport report = export_packed(source, model, dir / "out").commit();
  EXPECT_EQ(report.zeros.exact, 2);
  const formats::TensorFolder written(dir / "out");
  EXPECT_EQ(std::to_integer<int>(written.at(name + "_bits").bytes[0]) & 3, 3);
}

TEST(ExportPackedTest, ListsChecksumsOfAllItsFiles) {
  const TempDir dir;
  const ExportReport report =
      export_packed(MemorySource(small_model()), small_model(), dir / "out").commit();
  EXPECT_THAT(report.files, Contains("checksums.json"));
  const std::string listed = read_file(dir / "out" / "checksums.json");
  const formats::Checksums checksums(dir / "out");
  for (const std::string& file : report.files) {
    if (file == "checksums.json") continue;
    EXPECT_THAT(listed, HasSubstr(concat("\"file\": \"", file, "\"")));
    checksums.check(file);
  }
}

TEST(ExportPackedTest, RefusesWhatHasNoSigns) {
  const TempDir dir;
  const config::ModelConfig dense = small_model(config::Binarize::kNone);
  expect_error<UsageError>([&] { export_packed(MemorySource(dense), dense, dir / "out"); },
                           "MEMORY", "not binarized");
  MemorySource source(small_model());
  source.values("lm_head.weight")[3] = 70000;
  expect_error<DataError>([&] { export_packed(source, small_model(), dir / "out"); },
                          "lm_head.weight[0, 3]", "70000", "another dtype");
  source.values("model.layers.0.mlp.up_proj.weight")[3] = NAN;
  expect_error<DataError>([&] { export_packed(source, small_model(), dir / "out"); }, "up_proj");
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
}

}  // namespace
}  // namespace fbi::exporter
