#include <gmock/gmock.h>

#include <algorithm>

#include "fbi/core/error.h"
#include "fbi/eval/compare.h"
#include "fbi/infer/engine.h"
#include "fbi/infer/generate.h"
#include "fbi/kernels/cuda_memory.h"
#include "infer/test_models.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"

// Whole models on a GPU. The same file makes two programs: for a GPU (builds with FBI_CUDA=ON), and
// for the emulator of tests/kernels/cuda_on_cpu.
namespace fbi::infer {
namespace {

using formats::DType;
using test::expect_error;
using test::TempDir;

class CudaModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string missing = kernels::cuda::why_no_device();
    if (!missing.empty()) GTEST_SKIP() << "no GPU: " << missing;
    exporter::export_packed(test_source(gpu_model()), gpu_model(), path(), DType::kF16).commit();
  }
  std::filesystem::path path() const { return dir_ / "m"; }

 private:
  TempDir dir_;
};

constexpr PackedOptions kOnGpu = {.threads = 1, .device = Device::kCuda};

TEST_F(CudaModel, GivesTheLogitsOfTheDefinition) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    expect_plain_logits(gpu_model(binarize), kOnGpu, 5e-6);
  }
  config::ModelConfig model = gpu_model();
  model.tie_scales = true;
  model.shift = false;
  model.tie_word_embeddings = true;
  model.rope_theta = 500;
  model.rope_scaling = {.type = "linear", .factor = 4};
  expect_plain_logits(model, kOnGpu, 5e-6);
}

TEST_F(CudaModel, HeadsOfEveryKindAndHalfCache) {
  const ExpectedLogits model(gpu_model());
  PackedOptions options = kOnGpu;
  options.head = kernels::Storage::kFp16;
  model.expect_near(options, 1e-3);
  options.head = kernels::Storage::kInt8;
  model.expect_near(options, 2e-2);
  options = kOnGpu;
  options.cache = kernels::CacheType::kFp16;
  model.expect_near(options, 5e-3);
}

TEST_F(CudaModel, AgreesWithTheProcessor) {
  PackedModel cpu(path(), {.threads = 1}), gpu(path(), kOnGpu);
  const auto ids = some_ids(37);
  EXPECT_LT(eval::compare_logits(cpu, gpu, eval::stream_windows(ids, 37)).mean_kl, 1e-6);
  std::vector<float> nll(36), expected(36);
  const std::span<const std::int32_t> window = std::span(ids).first(37);
  cpu.token_nll(window, 1, 37, expected);
  gpu.token_nll(window, 1, 37, nll);
  for (int s = 0; s < 36; ++s) EXPECT_NEAR(nll[s], expected[s], 1e-4);
  EXPECT_EQ(gpu.cache_bytes_per_position(), cpu.cache_bytes_per_position());
  EXPECT_TRUE(gpu.on_gpu());
  EXPECT_FALSE(cpu.on_gpu());
  EXPECT_THAT(gpu.dtype_description(),
              ::testing::StartsWith("1-bit weights, fp32 activations, fp16 head, on cuda ("));
  EXPECT_GT(gpu.read_bandwidth(1 << 20), 0);
}

std::vector<std::int32_t> greedy_ids(PackedModel& model, std::int64_t count) {
  std::vector<std::int32_t> ids = some_ids(5);
  std::vector<float> logits(static_cast<std::size_t>(model.vocab_size()));
  const auto session = model.start_decoding();
  session->feed(ids, logits);
  for (std::int64_t k = 0; k < count; ++k) {
    ids.push_back(static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin()));
    session->feed({&ids.back(), 1}, logits);
  }
  return ids;
}

TEST_F(CudaModel, WritesTheSameGreedyText) {
  PackedModel cpu(path(), {.threads = 1}), gpu(path(), kOnGpu);
  EXPECT_EQ(greedy_ids(gpu, 50), greedy_ids(cpu, 50));
}

TEST_F(CudaModel, BitsDoNotDependOnHowTheSequenceIsCut) {
  const auto ids = some_ids(40);
  PackedModel model(path(), kOnGpu);
  const auto expected = all_logits(model, ids);
  std::vector<float> last(97);
  for (const std::size_t piece : {1, 17}) {
    const auto session = model.start_decoding();
    for (std::size_t first = 0; first < ids.size(); first += piece) {
      const std::size_t count = std::min(piece, ids.size() - first);
      session->feed(std::span(ids).subspan(first, count), last);
      const auto at = expected.begin() + static_cast<std::ptrdiff_t>((first + count - 1) * 97);
      EXPECT_TRUE(std::equal(last.begin(), last.end(), at)) << piece << ", " << first;
    }
  }
}

TEST_F(CudaModel, CachesGrow) {
  config::ModelConfig model = gpu_model();
  model.num_hidden_layers = 1;
  model.max_position_embeddings = 300;
  PackedModel cpu(model, {.threads = 1}), gpu(model, kOnGpu);
  const auto ids = some_ids(140);
  std::vector<float> expected(97), found(97);
  cpu.start_decoding()->feed(ids, expected);
  const auto session = gpu.start_decoding();
  session->feed(std::span(ids).first(100), found);
  session->feed(std::span(ids).subspan(100), found);
  for (int v = 0; v < 97; ++v) EXPECT_NEAR(found[v], expected[v], 1e-4);
}

TEST_F(CudaModel, TextsThatAreWrittenTogetherAreThoseWrittenAlone) {
  PackedModel model(path(), kOnGpu);
  const WordTokenizer tokenizer({"a", "b", "c", "d", "e", "f"});
  std::vector<EngineRequest> requests;
  std::vector<GenerateResult> alone;
  for (int n = 0; n < 3; ++n) {
    GenerateOptions options;
    options.max_new_tokens = 6 + n;
    options.sampling.seed = static_cast<std::uint64_t>(n);
    const auto prompt = some_ids(n == 0 ? 3 : 21);  // the last one is read once
    requests.push_back({.prompt = prompt, .options = options});
  }
  for (const EngineRequest& request : requests) {
    Engine engine(model, tokenizer);
    const auto generation = engine.submit({request});
    while (!generation->ended()) generation->wait(std::chrono::milliseconds(100));
    alone.push_back(generation->result(0));
  }
  Engine engine(model, tokenizer);
  const auto generation = engine.submit(requests);
  while (!generation->ended()) generation->wait(std::chrono::milliseconds(100));
  for (std::size_t n = 0; n < requests.size(); ++n)
    EXPECT_EQ(generation->result(n).ids, alone[n].ids);
}

TEST_F(CudaModel, RefusesWhatItDoesNotDo) {
  PackedOptions options = kOnGpu;
  options.activations = kernels::Activations::kInt8;
  expect_error<UsageError>([&] { PackedModel(path(), options); }, "device cuda", "int8");
  config::ModelConfig model = gpu_model();
  model.head_dim = 258;
  expect_error<UsageError>([&] { PackedModel(model, kOnGpu); }, "256", "head_dim is 258");
  options.device = Device::kAuto;
  EXPECT_FALSE(PackedModel(path(), options).on_gpu());
  options.activations = kernels::Activations::kExact;
  EXPECT_TRUE(PackedModel(path(), options).on_gpu());
}

}  // namespace
}  // namespace fbi::infer
