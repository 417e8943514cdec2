#include "fbi/exporter/import.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "config/small_model.h"
#include "fbi/config/huggingface.h"
#include "fbi/config/load.h"
#include "fbi/core/file.h"
#include "fbi/exporter/fold.h"
#include "fbi/formats/safetensors.h"
#include "formats/memory_source.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_tensor_folder.h"

namespace fbi::exporter {
namespace {

namespace fs = std::filesystem;
using config::small_model;
using formats::DType;
using formats::MemorySource;
using test::expect_error;

class Import : public testing::Test {
 protected:
  /// A folder as the published code leaves it: all tensors in `dtype`, with inv_freq of each layer.
  void write_source(const MemorySource& source, DType dtype) {
    fs::remove_all(from_);
    std::vector<std::vector<std::byte>> bytes;
    std::vector<formats::TensorView> views;
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape,
                         std::vector<std::byte> content, DType type) {
      bytes.push_back(std::move(content));
      views.push_back({name, type, shape, bytes.back()});
    };
    for (const auto& [name, tensor] : source.tensors) {
      std::vector<std::byte> content(tensor.values.size() * formats::size_of(dtype));
      if (dtype == DType::kF64) {
        std::fill(content.begin(), content.end(), std::byte{0});
      } else {
        cast(tensor.values, dtype, content);
      }
      add(name, tensor.shape, std::move(content), dtype);
    }
    for (const char* layer : {"0", "1"}) {
      add(concat("model.layers.", layer, ".self_attn.rotary_emb.inv_freq"), {2},
          std::vector<std::byte>(8), DType::kF32);
    }
    test::write_tensor_folder(from_, views);
    write_file(from_ / "tokenizer.json", "{}");
  }

  test::TempDir folder_;
  fs::path from_ = folder_ / "from", out_ = folder_ / "out";
};

TEST_F(Import, KeepsEveryBitInItsDtype) {
  for (const auto binarize : {config::Binarize::kColumn, config::Binarize::kNone}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const auto model = small_model(binarize);
      write_source(MemorySource(model), dtype);
      fs::remove_all(out_);
      ExportOptions options;
      options.max_shard_bytes = 2000;
      const ExportReport report = import_model(from_, model, out_, options).commit();
      const formats::TensorFolder source(from_), written(out_);
      EXPECT_EQ(written.names().size(), config::model_tensors(model).size());
      EXPECT_EQ(report.tensors, static_cast<std::int64_t>(written.names().size()));
      for (const std::string& name : written.names()) {
        EXPECT_EQ(written.at(name).dtype, dtype);
        EXPECT_TRUE(std::ranges::equal(written.at(name).bytes, source.at(name).bytes)) << name;
      }
      EXPECT_TRUE(fs::exists(out_ / "model.safetensors.index.json"));
      EXPECT_TRUE(fs::exists(out_ / "checksums.json"));
      EXPECT_EQ(read_file(out_ / "tokenizer.json"), "{}");
      auto expected = model;
      config::resolve(expected);
      EXPECT_EQ(config::model_config_from_hf_json(read_file(out_ / "config.json"), "x"), expected);
    }
  }
}

TEST_F(Import, Refusals) {
  const auto model = small_model();
  MemorySource source(model);
  const auto refused = [&](DType dtype, auto... text) {
    write_source(source, dtype);
    expect_error<DataError>([&] { import_model(from_, model, out_); }, from_.string(), text...);
    EXPECT_FALSE(fs::exists(out_));
  };
  refused(DType::kF64, "expected F32, F16 or BF16, found F64");
  source.values("model.norm.weight")[3] = std::numeric_limits<float>::infinity();
  refused(DType::kF32, "model.norm.weight[3] is inf");
  source.tensors.erase("model.layers.1.mlp.up_proj.wscale");
  source.tensors["model.layers.2.mlp.up_proj.weight"] = {{1}, {1}};
  refused(DType::kF32, "missing: model.layers.1.mlp.up_proj.wscale",
          "not used by this architecture: model.layers.2.mlp.up_proj.weight");
  fs::create_directory(out_);
  write_file(out_ / "something", "");
  write_source(MemorySource(model), DType::kF32);
  expect_error<UsageError>([&] { import_model(from_, model, out_); }, out_.string(),
                           "is not empty");
}

}  // namespace
}  // namespace fbi::exporter
