#include <cuda_runtime.h>

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
