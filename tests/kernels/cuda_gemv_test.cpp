#include "fbi/core/error.h"
#include "kernels/cuda_decode_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaGemv = OnDevice;

/// Around a nibble, a word, a chunk of 128 columns and the sixteen warps; around 32 rows.
const std::vector<MatrixShape> kShapes = {{1, 1},    {3, 6},    {31, 33},
                                          {33, 128}, {70, 300}, {5, 2060}};

/// Of plain vectors.
std::int64_t parts_of(std::int64_t width) {
  return reader_parts(1, width);
}

/// residual + x W~ᵀ, x published as products read it; what is published then, and its sum, go to a
/// reader without scales.
struct Added {
  std::vector<float> residual, scaled;
};
Added multiply_added(const SignMatrix& w, const std::vector<float>& x,
                     const std::vector<float>& norm, std::int64_t tokens,
                     const std::vector<float>& residual) {
  const Passed in(tokens, w.shape.columns, parts_of(w.shape.columns), {&w}, norm);
  const Passed out(tokens, w.shape.rows, parts_of(w.shape.rows), {});
  const DeviceArray<float> sum(residual);
  in.publish(x);
  multiply_add(w.on_device(), in.input(), tokens, sum.data(), out.readers(), nullptr);
  return {sum.values(), out.scaled()};
}

void expect_product(const SignMatrix& w, bool normed, std::int64_t tokens) {
  const auto x = normals(tokens * w.shape.columns, 3), before = normals(tokens * w.shape.rows, 4);
  const auto norm = normed ? normals(w.shape.columns, 5) : std::vector<float>();
  const Added found = multiply_added(w, x, norm, tokens, before);
  EXPECT_EQ(bits_of(found.scaled), bits_of(found.residual));
  const auto seen = Passed(tokens, w.shape.columns, parts_of(w.shape.columns), {}, norm).seen(x);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto expected = w.product(seen[t]);
    for (std::int64_t o = 0; o < w.shape.rows; ++o) {
      const std::int64_t k = t * w.shape.rows + o;
      ASSERT_NEAR(found.residual[k], before[k] + expected[o].value,
                  2e-6 * expected[o].magnitude + 1e-6 * std::abs(before[k]))
          << "row " << o << " of token " << t;
    }
  }
}

TEST_F(CudaGemv, AgreesWithTheDefinition) {
  for (const MatrixShape& shape : kShapes) {
    for (const auto& [name, strides] : kPatterns) {
      SCOPED_TRACE(testing::Message() << name << " " << shape.rows << " x " << shape.columns);
      const SignMatrix w(shape, strides, 10);
      expect_product(w, false, 2);
      expect_product(w, true, 2);
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaGemv, ATokenDoesNotDependOnOthers) {
  const SignMatrix w({40, 260}, ScaleStrides::per_column(), 10);
  const auto x = normals(3 * 260, 3), before = normals(3 * 40, 4), norm = normals(260, 5);
  const auto together = bits_of(multiply_added(w, x, norm, 3, before).residual);
  for (std::int64_t t = 0; t < 3; ++t) {
    const std::vector<float> own(x.begin() + t * 260, x.begin() + (t + 1) * 260);
    const std::vector<float> rest(before.begin() + t * 40, before.begin() + (t + 1) * 40);
    EXPECT_EQ(
        bits_of(multiply_added(w, own, norm, 1, rest).residual),
        std::vector<std::uint32_t>(together.begin() + t * 40, together.begin() + (t + 1) * 40));
  }
}

TEST_F(CudaGemv, GateAndUp) {
  constexpr std::int64_t kTokens = 2;
  for (const MatrixShape& shape : kShapes) {
    for (const auto& [name, strides] : kPatterns) {
      SCOPED_TRACE(testing::Message() << name << " " << shape.rows << " x " << shape.columns);
      const SignMatrix g(shape, strides, 20), u(shape, strides, 30);
      const auto x = normals(kTokens * shape.columns, 3);
      const Passed in(kTokens, shape.columns, parts_of(shape.columns), {&g, &u},
                      normals(shape.columns, 5));
      const Passed out(kTokens, shape.rows, parts_of(shape.rows), {});
      in.publish(x);
      gate(g.on_device(), in.input(0), u.on_device(), in.input(1), kTokens, out.readers(), nullptr);
      const auto found = out.scaled();
      const auto seen = in.seen(x);
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const auto gates = g.product(seen[t]), ups = u.product(seen[t]);
        for (std::int64_t o = 0; o < shape.rows; ++o) {
          const double a = gates[o].value, b = ups[o].value, silu = a / (1 + std::exp(-a));
          // The slope of silu is at most 1.1.
          const double error = 2.2e-6 * gates[o].magnitude * (std::abs(b) + 1e-6) +
                               2e-6 * ups[o].magnitude * std::abs(silu);
          ASSERT_NEAR(found[t * shape.rows + o], silu * b, error + 1e-6 * std::abs(silu * b))
              << "row " << o << " of token " << t;
        }
      }
    }
  }
}

TEST_F(CudaGemv, RefusesStridesOfNoPattern) {
  test::expect_error<UsageError>(
      [] {
        multiply_add({nullptr, nullptr, nullptr, {1, 1}, {1, 1}}, {}, 1, nullptr, {}, nullptr);
      },
      "found {1, 1}");
}

TEST_F(CudaGemv, ALaunchThatTheDeviceRefusesIsAnError) {
  const RepackedMatrix matrix = {nullptr, nullptr, nullptr, ScaleStrides::per_column(), {1, 1}};
  test::expect_error<CudaError>([&] { multiply_add(matrix, {}, 1 << 16, nullptr, {}, nullptr); },
                                "multiply_add: ", "invalid");
  expect_product(SignMatrix({3, 6}, ScaleStrides::single(), 10), false, 1);  // it is forgotten
}

}  // namespace
}  // namespace fbi::kernels::cuda
