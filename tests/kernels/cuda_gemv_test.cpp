#include "fbi/core/error.h"
#include "fbi/kernels/gemv.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaGemv = OnDevice;

struct GemvProblem {
  MatrixShape shape;
  ScaleStrides strides;
  std::int64_t tokens;
  std::vector<float> alpha, beta, x;
  std::vector<std::uint8_t> bits;

  GemvProblem(MatrixShape shape_, ScaleStrides strides_, std::int64_t tokens_)
      : shape(shape_),
        strides(strides_),
        tokens(tokens_),
        alpha(normals(strides.count(shape.rows, shape.columns), 1)),
        beta(normals(strides.count(shape.rows, shape.columns), 2, 0.1)),
        x(normals(tokens * shape.columns, 3)),
        bits(packed(normals(shape.rows * shape.columns, 4), shape)) {}

  std::vector<float> on_device() const {
    const DeviceArray<std::uint8_t> device_bits(bits), words(repacked_bytes(shape));
    const DeviceArray<float> device_alpha(alpha), device_beta(beta), device_x(x),
        y(tokens * shape.rows);
    repack_signs(device_bits.data(), shape, words.data(), nullptr);
    multiply({words.data(), device_alpha.data(), device_beta.data(), strides, shape},
             device_x.data(), tokens, y.data(), nullptr);
    return y.values();
  }

  /// The definition in double, and Σ|W~||x|.
  void expect_product(const std::vector<float>& found) const {
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t o = 0; o < shape.rows; ++o) {
        double sum = 0, magnitude = 0;
        for (std::int64_t i = 0; i < shape.columns; ++i) {
          const std::int64_t k = o * strides.row + i * strides.column;
          const double input = x[t * shape.columns + i];
          sum +=
              (sign_at(bits, shape, o, i) ? alpha[k] : -double{alpha[k]}) * input + beta[k] * input;
          magnitude += (std::abs(alpha[k]) + std::abs(beta[k])) * std::abs(input);
        }
        ASSERT_NEAR(found[t * shape.rows + o], sum, 2e-6 * magnitude)
            << "row " << o << " of token " << t;
      }
    }
  }
};

TEST_F(CudaGemv, AgreesWithTheDefinition) {
  // Around a nibble, a word, a chunk of 128 columns and the sixteen warps; around 32 rows.
  for (const MatrixShape& shape :
       std::vector<MatrixShape>{{1, 1}, {3, 6}, {31, 33}, {33, 128}, {70, 300}, {5, 2060}}) {
    for (const auto& [name, strides] : kPatterns) {
      SCOPED_TRACE(testing::Message() << name << " " << shape.rows << " x " << shape.columns);
      const GemvProblem problem(shape, strides, 2);
      problem.expect_product(problem.on_device());
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaGemv, AgreesWithTheProcessorsKernel) {
  const GemvProblem problem({40, 520}, ScaleStrides::per_column(), 1);
  SerialFor serial;
  const BinaryLinear linear(problem.bits.data(), problem.alpha, problem.beta, problem.strides,
                            problem.shape, Activations::kExact, serial);
  std::vector<float> expected(40);
  kernels::multiply(linear, problem.x.data(), 1, expected.data(), serial);
  const auto found = problem.on_device();
  for (int o = 0; o < 40; ++o)
    EXPECT_NEAR(found[o], expected[o], 2e-4) << "both within 2e-6 of Σ|W~||x|, some 400";
}

TEST_F(CudaGemv, ATokenDoesNotDependOnOthers) {
  const GemvProblem problem({40, 260}, ScaleStrides::per_column(), 3);
  const auto together = bits_of(problem.on_device());
  for (std::int64_t t = 0; t < 3; ++t) {
    GemvProblem alone = problem;
    alone.tokens = 1;
    alone.x.assign(problem.x.begin() + t * 260, problem.x.begin() + (t + 1) * 260);
    EXPECT_EQ(
        bits_of(alone.on_device()),
        std::vector<std::uint32_t>(together.begin() + t * 40, together.begin() + (t + 1) * 40));
  }
}

TEST_F(CudaGemv, RefusesStridesOfNoPattern) {
  test::expect_error<UsageError>(
      [] {
        multiply({nullptr, nullptr, nullptr, {1, 1}, {1, 1}}, nullptr, 1, nullptr, nullptr);
      },
      "found {1, 1}");
}

TEST_F(CudaGemv, ALaunchThatTheDeviceRefusesIsAnError) {
  const RepackedMatrix matrix = {nullptr, nullptr, nullptr, ScaleStrides::per_column(), {1, 1}};
  test::expect_error<CudaError>([&] { multiply(matrix, nullptr, 1 << 16, nullptr, nullptr); },
                                "multiply: ", "invalid");
  const GemvProblem problem({3, 6}, ScaleStrides::single(), 1);
  problem.expect_product(problem.on_device());  // the error is forgotten
}

}  // namespace
}  // namespace fbi::kernels::cuda
