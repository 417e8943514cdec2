#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "fbi/core/error.h"
#include "infer/test_models.h"
#include "support/expect_error.h"

// A device without enough memory, which only the emulator can be.
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

}  // namespace
}  // namespace fbi::infer
