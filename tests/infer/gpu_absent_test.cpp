#include "fbi/core/error.h"
#include "infer/test_models.h"
#include "support/expect_error.h"

// Builds with FBI_CUDA=OFF.
namespace fbi::infer {
namespace {

TEST(GpuAbsent, CudaIsRefusedAndAutoIsTheProcessor) {
  test::expect_error<UsageError>(
      [] { PackedModel(test_model(), {.threads = 1, .device = Device::kCuda}); },
      "device cuda is asked for", "built without it", "use cpu or auto");
  EXPECT_FALSE(PackedModel(test_model(), {.threads = 1, .device = Device::kAuto}).on_gpu());
}

}  // namespace
}  // namespace fbi::infer
