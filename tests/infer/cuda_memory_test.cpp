#include <cuda_runtime.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "fbi/core/error.h"
#include "fbi/infer/engine.h"
#include "fbi/kernels/cuda.h"
#include "infer/test_models.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"

// A device without enough memory, or that fails, which only the emulator can be.
namespace fbi::infer {
namespace {

using test::expect_error;

class CudaMemoryLimit : public ::testing::Test {
 protected:
  void TearDown() override { emulated_memory_bytes = std::size_t{1} << 30; }
};

TEST_F(CudaMemoryLimit, AModelThatDoesNotFit) {
  emulated_memory_bytes = 100'000;
  expect_error<UsageError>(
      [] { PackedModel(test_model(), {.threads = 1, .device = Device::kCuda}); },
      "the model needs ", "of the GPU's memory", "are free", "--device cpu");
}

std::size_t used_bytes(const config::ModelConfig& config, std::optional<kernels::Storage> head) {
  const PackedModel model(config, {.head = head, .threads = 1, .device = Device::kCuda});
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return total - free;
}

TEST_F(CudaMemoryLimit, AnEmbeddingThatIsTheHeadTooIsThereOnce) {
  config::ModelConfig tied = test_model();
  tied.tie_word_embeddings = true;
  const auto once = used_bytes(tied, std::nullopt);
  const std::size_t table = 97 * 72 * sizeof(std::uint16_t);  // of fp16
  EXPECT_GE(used_bytes(test_model(), std::nullopt), once + table);
  EXPECT_GE(used_bytes(tied, kernels::Storage::kInt8), once + table / 2);
}

TEST_F(CudaMemoryLimit, ATextThatDoesNotFit) {
  PackedModel model(test_model(), {.threads = 1, .device = Device::kCuda});
  std::vector<float> logits(97);
  const auto session = model.start_decoding();
  emulated_memory_bytes = 1;
  expect_error<UsageError>([&] { session->feed(some_ids(3), logits); },
                           "the key-value cache of a text of 3 tokens needs ", "are free");
  emulated_memory_bytes = std::size_t{1} << 30;
  session->feed(some_ids(3), logits);  // and then it does
  EXPECT_EQ(session->position(), 3);
}

/// What ended is read again by the next one that begins like it.
TEST_F(CudaMemoryLimit, APrefixThatCannotBeKept) {
  PackedModel model(gpu_model(), {.threads = 1, .device = Device::kCuda});
  const WordTokenizer words({"a", "b"});
  const EngineRequest request = {prompt_ids(model, words, std::string(20, 'a'), true),
                                 {.max_new_tokens = 20, .ignore_eos = true}};
  const std::uint64_t position = model.cache_bytes_per_position();
  // Of the text's 41 positions the last is not fed: a copy without its room would fit.
  Engine engine(model, words, {.prefix_cache_bytes = 41 * position - 1});
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  emulated_memory_bytes = total - free + 60 * position;
  for (int n = 0; n < 2; ++n) {
    const auto text = engine.submit({request});
    while (!text->ended()) text->wait(std::chrono::seconds(1));
    EXPECT_EQ(text->result(0).new_tokens, 20);
    EXPECT_EQ(text->result(0).cached_tokens, 0);
  }
}

TEST(CudaFailure, EndsTheEngine) {
  PackedModel model(gpu_model(), {.threads = 1, .device = Device::kCuda});
  const WordTokenizer words({"a", "b"});
  Engine engine(model, words, {.max_batch = 1, .queue = 1});
  const EngineRequest request = {prompt_ids(model, words, "ab", true), {.max_new_tokens = 2}};
  emulated_outcome = cudaErrorIllegalAddress;
  const auto both = engine.submit({request, request});
  while (!both->ended()) both->wait(std::chrono::seconds(1));
  emulated_outcome = cudaSuccess;
  using kernels::cuda::CudaError;
  for (const std::size_t running_or_waiting : {0, 1}) {
    expect_error<CudaError>([&] { both->result(running_or_waiting); },
                            "the GPU has failed: ", "illegal memory access");
  }
  expect_error<CudaError>([&] { engine.submit({request}); }, "the GPU has failed: ");
  EXPECT_TRUE(engine.load().stopping);
  EXPECT_NE(engine.load().failure, "");
}

}  // namespace
}  // namespace fbi::infer
