#include "fbi/infer/packed_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>

#include "config/small_model.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/eval/perplexity.h"
#include "fbi/exporter/packed.h"
#include "fbi/kernels/dispatch.h"
#include "formats/memory_source.h"
#include "infer/test_models.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::infer {
namespace {

using config::small_model;
using formats::DType;
using formats::MemorySource;
using test::expect_error;
using test::TempDir;

TEST(PackedModelTest, GivesTheLogitsOfTheDefinition) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    expect_plain_logits(test_model(binarize), {.threads = 1}, 5e-6);
  }
}

TEST(PackedModelTest, TiedScalesWithoutShift) {
  config::ModelConfig model = test_model();
  model.tie_scales = true;
  model.shift = false;
  expect_plain_logits(model, {.threads = 1}, 5e-6);
}

TEST(PackedModelTest, EveryKernelLevel) {
  const ExpectedLogits model(test_model());
  for (const kernels::DispatchRow& row : kernels::dispatch_rows()) {
    if (!row.available()) continue;
    kernels::force_level(row.level);
    SCOPED_TRACE(kernels::level_name(row.level));
    model.expect_near({.threads = 2}, 5e-6);
    model.expect_near({.activations = kernels::Activations::kInt8, .threads = 2}, 0.05);
  }
  kernels::force_level(std::nullopt);
}

TEST(PackedModelTest, EveryRotaryVariantAndATiedHead) {
  config::ModelConfig model = test_model();
  model.rope_theta = 500;
  model.rope_scaling = {.type = "linear", .factor = 4};
  expect_plain_logits(model, {.threads = 1}, 5e-6);
  model.rope_scaling = {.type = "llama3",
                        .factor = 8,
                        .low_freq_factor = 1,
                        .high_freq_factor = 4,
                        .original_max_position_embeddings = 32};
  model.tie_word_embeddings = true;
  expect_plain_logits(model, {.threads = 1}, 5e-6);
}

TEST(PackedModelTest, HeadsOfEveryKindAndHalfCache) {
  const ExpectedLogits model(test_model());
  model.expect_near({.head = kernels::Storage::kFp16, .threads = 1}, 1e-3);
  model.expect_near({.head = kernels::Storage::kInt8, .threads = 1}, 2e-2);
  model.expect_near({.cache = kernels::CacheType::kFp16, .threads = 1}, 5e-3);
}

class PackedFolder : public ::testing::Test {
 protected:
  PackedFolder() {
    const MemorySource source = test_source(test_model());
    exporter::export_packed(source, test_model(), path(), DType::kF16).commit();
  }
  std::filesystem::path path() const { return dir_ / "m"; }

 private:
  TempDir dir_;
};

TEST_F(PackedFolder, BitsDoNotDependOnThreadsOrOnHowTheSequenceIsCut) {
  const auto ids = some_ids(40);
  for (const auto activations : {kernels::Activations::kExact, kernels::Activations::kInt8}) {
    const auto open = [&](int threads) {
      return PackedModel(path(), {.activations = activations, .threads = threads});
    };
    PackedModel one = open(1), three = open(3);
    PackedModel six = open(6);  // too many to have tables of their own
    const auto expected = all_logits(one, ids);
    EXPECT_EQ(all_logits(three, ids), expected);
    EXPECT_EQ(all_logits(six, ids), expected);
    std::vector<float> last(97);
    for (const std::size_t piece : {1, 3, 17, 40}) {
      const auto session = three.start_decoding();
      for (std::size_t first = 0; first < ids.size(); first += piece) {
        const std::size_t count = std::min(piece, ids.size() - first);
        session->feed(std::span(ids).subspan(first, count), last);
        const auto at = expected.begin() + static_cast<std::ptrdiff_t>((first + count - 1) * 97);
        EXPECT_TRUE(std::equal(last.begin(), last.end(), at)) << piece << ", " << first;
      }
      EXPECT_EQ(session->position(), 40);
    }
  }
}

/// Matrices of enough rows that members take them in groups of blocks.
TEST(PackedModel, BitsDoNotDependOnWhoTakesWhichRows) {
  config::ModelConfig config = test_model();
  config.intermediate_size = 2500;
  config.vocab_size = 900;
  const auto ids = some_ids(20);
  PackedModel one(config, {.threads = 1}), two(config, {.threads = 2});
  const auto expected = all_logits(one, ids);
  for (int round = 0; round < 3; ++round) EXPECT_EQ(all_logits(two, ids), expected);
}

TEST_F(PackedFolder, RunsInsideAnotherPoolsWork) {
  PackedModel model(path(), {.threads = 2});
  const auto ids = some_ids(5);
  const auto expected = all_logits(model, ids);
  ThreadPool pool(2);
  pool.run(0, 2, 1, [&](std::int64_t begin, std::int64_t) {
    if (begin == 1) {
      EXPECT_EQ(all_logits(model, ids), expected);
    }
  });
}

TEST_F(PackedFolder, SessionsDoNotDisturbEachOther) {
  PackedModel model(path(), {.threads = 2});
  const auto a = some_ids(12);
  std::vector<std::int32_t> b(a.rbegin(), a.rend());
  const auto expect_a = all_logits(model, a), expect_b = all_logits(model, b);
  const auto first = model.start_decoding(), second = model.start_decoding();
  std::vector<float> logits(97);
  for (std::size_t t = 0; t < a.size(); ++t) {
    first->feed({&a[t], 1}, logits);
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(), expect_a.begin() + t * 97));
    second->feed({&b[t], 1}, logits);
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(), expect_b.begin() + t * 97));
  }
}

/// With a whole head, and with one that is read in part.
TEST_F(PackedFolder, TextsThatAreFedTogetherAreThoseOfTheirOwn) {
  PackedModel model(path(), {.threads = 2});
  const auto ids = some_ids(40);
  for (const std::size_t texts : {1, 3, 6}) {
    std::vector<std::unique_ptr<eval::DecodingSession>> alone, together;
    std::vector<float> own(97), all(texts * 97);
    for (std::size_t n = 0; n < texts; ++n) {  // of different lengths
      for (auto* sessions : {&alone, &together}) {
        sessions->push_back(model.start_decoding());
        sessions->back()->feed(std::span(ids).first(2 + n), own);
      }
    }
    model.feed_each(together, std::span(ids).first(texts), {.ids = 97}, all);
    for (std::size_t n = 0; n < texts; ++n) {
      alone[n]->feed({&ids[n], 1}, own);
      const auto found = all.begin() + static_cast<std::ptrdiff_t>(n * 97);
      EXPECT_EQ(std::ranges::max_element(own) - own.begin(),
                std::max_element(found, found + 97) - found);
      EXPECT_EQ(together[n]->position(), alone[n]->position());
      if (texts > 4) EXPECT_TRUE(std::equal(own.begin(), own.end(), found));
    }
  }
  std::vector<float> none;
  expect_error<UsageError>([&] { model.feed_each({}, {}, {.ids = 97}, none); },
                           "expected 1 to 64 sessions");
}

TEST_F(PackedFolder, LikelihoodsAreThoseOfTheLogits) {
  PackedModel model(path(), {.threads = 2});
  constexpr std::int64_t kBatch = 2, kSeq = 20;
  const auto ids = some_ids(kBatch * kSeq);
  std::vector<float> nll(kBatch * (kSeq - 1));
  model.token_nll(ids, kBatch, kSeq, nll);
  std::vector<float> logits(ids.size() * 97);
  model.logits(ids, kBatch, kSeq, logits);
  for (std::int64_t b = 0; b < kBatch; ++b) {
    for (std::int64_t s = 0; s + 1 < kSeq; ++s) {
      const float* row = &logits[(b * kSeq + s) * 97];
      double sum = 0;
      for (int v = 0; v < 97; ++v) sum += std::exp(double{row[v]});
      EXPECT_NEAR(nll[b * (kSeq - 1) + s], std::log(sum) - row[ids[b * kSeq + s + 1]], 1e-5);
    }
  }
}

TEST_F(PackedFolder, TextsThatBeginAlikeHaveTheLikelihoodsOfEachAlone) {
  PackedModel model(path(), {.threads = 2});
  const auto ids = some_ids(200);
  const auto text = [&](std::size_t shared, std::size_t own, std::size_t length,
                        std::int64_t scored) {
    std::vector<std::int32_t> all(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(shared));
    for (std::size_t i = shared; i < length; ++i) all.push_back(ids[ids.size() - 1 - i - own]);
    return eval::ScoredText{all, scored};
  };
  const std::vector<eval::ScoredText> texts = {
      text(20, 0, 25, 5),  text(20, 7, 22, 2),  // one context, two continuations
      text(20, 9, 26, 3),                       // the same, scored only behind some of its own
      text(21, 3, 25, 4),  text(20, 1, 25, 5),  // the first choice itself begins like the context
      text(45, 0, 65, 20), text(45, 5, 46, 1),  // more rows than run at once
      text(1, 0, 2, 1),    text(1, 4, 30, 29), text(0, 50, 12, 3)};
  const std::vector<double> found = model.log_likelihoods(texts);
  ASSERT_EQ(found.size(), texts.size());
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const auto length = std::ssize(texts[t].ids);
    std::vector<float> nll(static_cast<std::size_t>(length - 1));
    model.token_nll(texts[t].ids, 1, length, nll);
    EXPECT_EQ(found[t], -std::accumulate(nll.end() - texts[t].scored, nll.end(), 0.0)) << t;
  }
  EXPECT_TRUE(model.log_likelihoods({}).empty());
  for (const std::int64_t scored : {0, 4})
    expect_error<UsageError>(
        [&] {
          model.log_likelihoods(std::vector{eval::ScoredText{{1, 2, 3, 4}, scored}});
        },
        concat(scored, " of 4 ids are to be scored"));
}

TEST_F(PackedFolder, NativeExportOfTheSameModelGivesTheSameBits) {
  const TempDir dir;
  const MemorySource source = test_source(test_model());
  exporter::export_native(source, test_model(), dir / "native").commit();
  exporter::export_packed(source, test_model(), dir / "packed", DType::kF32).commit();
  PackedModel native(dir / "native", {.threads = 1}), packed(dir / "packed", {.threads = 1});
  const auto ids = some_ids(9);
  EXPECT_EQ(all_logits(native, ids), all_logits(packed, ids));
  EXPECT_TRUE(is_packed_folder(dir / "packed"));
  EXPECT_FALSE(is_packed_folder(dir / "native"));
  EXPECT_FALSE(is_packed_folder(dir / "nothing"));
}

TEST_F(PackedFolder, SaysWhatItIs) {
  PackedModel model(path(), {.activations = kernels::Activations::kInt8,
                             .head = kernels::Storage::kInt8,
                             .cache = kernels::CacheType::kFp16,
                             .threads = 1});
  EXPECT_EQ(model.dtype_description(), "1-bit weights, int8 activations, int8 head, fp16 cache");
  EXPECT_EQ(PackedModel(path(), {.threads = 1}).dtype_description(),
            "1-bit weights, fp32 activations, fp16 head");
  EXPECT_EQ(model.max_position(), 64);
  EXPECT_EQ(model.binarized_weights(), 2u * (2 * 72 * 72 + 2 * 24 * 72 + 3 * 300 * 72));
  EXPECT_GT(model.bytes_per_token(), model.sign_bytes());
  EXPECT_GE(model.sign_bytes() * 8, model.binarized_weights());
  EXPECT_EQ(model.cache_bytes_per_position(), 2u * 2 * 2 * 16 * 2);  // key and value, layers, heads
}

TEST_F(PackedFolder, RefusesIdsAndLengthsThatDoNotFit) {
  PackedModel model(path(), {.threads = 1});
  std::vector<float> logits(97);
  const std::int32_t outside = 97, negative = -1;
  const auto session = model.start_decoding();
  expect_error<UsageError>([&] { session->feed({&outside, 1}, logits); }, "97", "vocabulary");
  expect_error<UsageError>([&] { session->feed({&negative, 1}, logits); }, "-1", "vocabulary");
  expect_error<UsageError>([&] { session->feed({}, logits); }, "no token");
  const auto long_text = some_ids(65);
  expect_error<UsageError>([&] { session->feed(long_text, logits); }, "65", "64");
  EXPECT_EQ(session->position(), 0);
}

// ---- bad files

template <class Change>
void change_file(const std::filesystem::path& file, const Change& change) {
  std::string bytes = read_file(file);
  change(bytes);
  write_file(file, bytes);
}

/// Lets `change` alter the safetensors file's bytes, opens: what is noticed without checksums.
template <class Change>
void open_changed(const std::filesystem::path& folder, const Change& change) {
  change_file(folder / "model.safetensors", change);
  std::filesystem::remove(folder / "checksums.json");
  PackedModel(folder, {.threads = 1});
}

void replace(std::string& bytes, const std::string& from, const std::string& to) {
  const std::size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
}

TEST_F(PackedFolder, TruncatedFile) {
  expect_error<DataError>(
      [&] { open_changed(path(), [](std::string& b) { b.resize(b.size() - 100); }); },
      "model.safetensors");
}

TEST_F(PackedFolder, TensorOfAnotherName) {
  expect_error<DataError>(
      [&] {
        open_changed(path(), [](std::string& b) {
          replace(b, "layers.1.mlp.up_proj.weight_bits", "layers.1.mlp.xp_proj.weight_bits");
        });
      },
      "missing: model.layers.1.mlp.up_proj.weight_bits [300, 9]",
      "not used by this architecture: model.layers.1.mlp.xp_proj.weight_bits");
}

TEST_F(PackedFolder, ConfigurationOfAnotherModel) {
  std::filesystem::remove(path() / "checksums.json");
  change_file(path() / "config.json", [](std::string& b) {
    replace(b, "\"intermediate_size\": 300", "\"intermediate_size\": 301");
  });
  expect_error<DataError>([&] { PackedModel(path(), {.threads = 1}); }, "up_proj.weight_bits",
                          "expected [301, 9]", "found [300, 9]");
}

TEST_F(PackedFolder, FarMoreLayersThanTensors) {
  std::filesystem::remove(path() / "checksums.json");
  change_file(path() / "config.json", [](std::string& b) {
    replace(b, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000000");
  });
  expect_error<DataError>([&] { PackedModel(path(), {.threads = 1}); });
}

TEST_F(PackedFolder, PadBitsThatAreSet) {
  // 300 inputs of down_proj leave 4 bits of a row's last byte.
  expect_error<DataError>(
      [&] {
        open_changed(path(), [&](std::string& b) {
          const formats::TensorFolder tensors(path());
          const auto& view = tensors.at("model.layers.0.mlp.down_proj.weight_bits");
          const std::string row(reinterpret_cast<const char*>(view.bytes.data()), 38);
          b[b.find(row) + 37] |= static_cast<char>(0x80);
        });
      },
      "layers.0.mlp.down_proj.weight_bits", "row 0", "300");
}

TEST_F(PackedFolder, ValueThatIsNotFinite) {
  expect_error<DataError>(
      [&] {
        open_changed(path(), [&](std::string& b) {
          const formats::TensorFolder tensors(path());
          const auto& view = tensors.at("model.layers.1.mlp.down_proj.wscale");
          const std::string row(reinterpret_cast<const char*>(view.bytes.data()), 1200);
          const float bad = NAN;
          std::memcpy(b.data() + b.find(row) + 8, &bad, sizeof bad);
        });
      },
      "layers.1.mlp.down_proj.wscale", "value 2", "nan");
}

/// Everything that no other check can see: a sign, a value of the head, an embedding.
TEST_F(PackedFolder, AlteredValues) {
  const formats::TensorFolder tensors(path());
  for (const char* name : {"model.layers.0.mlp.down_proj.weight_bits",
                           "model.layers.1.self_attn.q_proj.wscale", "lm_head.weight"}) {
    const auto file = path() / "model.safetensors";
    const auto& bytes = tensors.at(name).bytes;
    const std::string start(reinterpret_cast<const char*>(bytes.data()), 36);
    const auto flip = [&](std::string& b) { b[b.find(start)] ^= 4; };
    const std::string whole = read_file(file);
    change_file(file, flip);
    expect_error<DataError>([&] { PackedModel(path(), {.threads = 1}); }, file.string(),
                            "has been altered: expected XXH3", "found", "export the model again",
                            (path() / "checksums.json").string());
    write_file(file, whole);
    PackedModel(path(), {.threads = 1});
  }
}

TEST_F(PackedFolder, AlteredFilesExplainWhatElseIsWrong) {
  change_file(path() / "config.json", [](std::string& b) {
    replace(b, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  });
  expect_error<DataError>([&] { PackedModel(path(), {.threads = 1}); },
                          (path() / "config.json").string(), "has been altered");
  std::filesystem::remove(path() / "checksums.json");  // as exports were before there were any
  expect_error<DataError>([&] { PackedModel(path(), {.threads = 1}); }, "missing: model.layers.2");
}

TEST_F(PackedFolder, OnlyWhatTheModelIsMadeOfMustBeAsItWas) {
  write_file(path() / "README.md", "another text");
  write_file(path() / "new.txt", "one file more");
  PackedModel(path(), {.threads = 1});
}

/// As published: the pattern stands in the shapes of the scales alone.
TEST(PackedModelTest, NativeFolderThatDoesNotNameItsPattern) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    const TempDir dir;
    const config::ModelConfig model = test_model(binarize);
    exporter::export_native(test_source(model), model, dir / "m").commit();
    PackedModel named(dir / "m", {.threads = 1});
    std::filesystem::remove(dir / "m" / "checksums.json");
    change_file(dir / "m" / "config.json", [&](std::string& b) {
      replace(b, concat(",\n  \"binarize\": \"", config::to_string(binarize), "\""), "");
    });
    PackedModel unnamed(dir / "m", {.threads = 1});
    EXPECT_EQ(unnamed.config().binarize, binarize);
    const auto ids = some_ids(9);
    EXPECT_EQ(all_logits(unnamed, ids), all_logits(named, ids));
  }
}

TEST_F(PackedFolder, DenseModel) {
  const TempDir dir;
  const config::ModelConfig dense = small_model(config::Binarize::kNone);
  exporter::export_native(MemorySource(dense), dense, dir / "dense").commit();
  expect_error<DataError>([&] { PackedModel(dir / "dense"); }, "config.json", "binarize",
                          "nor a tensor model.layers.0.self_attn.q_proj.wscale", "--format packed");
  expect_error<DataError>([&] { PackedModel(dir / "nothing"); }, "config.json");
}

}  // namespace
}  // namespace fbi::infer
