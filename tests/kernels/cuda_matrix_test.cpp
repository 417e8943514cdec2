#include <bit>
#include <limits>

#include "fbi/core/error.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaMatrix = OnDevice;
using CudaAdamW = OnDevice;
using CudaSums = OnDevice;

/// Columns that are and are not whole bytes, packs and blocks; rows around those of a block.
const std::vector<MatrixShape> kMatrixShapes = {{1, 1},    {3, 5},    {2, 8},   {9, 12},
                                                {17, 31},  {16, 32},  {5, 130}, {33, 515},
                                                {7, 1024}, {40, 1032}};

std::vector<float> with_special_values(std::vector<float> values) {
  const float special[] = {0.0f,      -0.0f,    NAN,
                           -INFINITY, INFINITY, std::numeric_limits<float>::denorm_min()};
  for (std::size_t k = 0; k < std::size(special) && 3 * k < values.size(); ++k)
    values[3 * k] = special[k];
  return values;
}

TEST_F(CudaMatrix, PacksLikeTheReference) {
  for (const MatrixShape& shape : kMatrixShapes) {
    const auto latent = with_special_values(normals(shape.rows * shape.columns, 1));
    const DeviceArray<float> device(latent);
    const DeviceArray<std::uint8_t> bits(shape.rows * row_bytes(shape.columns));
    pack_signs(device.data(), shape, bits.data(), nullptr);
    EXPECT_EQ(bits.values(), reference([&] { return packed(latent, shape); }))
        << shape.rows << " x " << shape.columns;
  }
}

/// W~ by the reference, in fp32.
std::vector<float> effective_by_reference(const std::vector<std::uint8_t>& bits,
                                          const std::vector<float>& alpha,
                                          const std::vector<float>& beta, ScaleStrides strides,
                                          MatrixShape shape) {
  return reference([&] {
    SerialFor serial;
    std::vector<float> out(static_cast<std::size_t>(shape.rows * shape.columns));
    kernels::effective_weight(bits.data(), alpha.data(), beta.data(), strides, shape, out.data(),
                              serial);
    return out;
  });
}

TEST_F(CudaMatrix, EffectiveWeightEqualsTheReference) {
  for (const auto& [name, strides] : kPatterns) {
    for (const MatrixShape& shape : kMatrixShapes) {
      SCOPED_TRACE(testing::Message() << name << " " << shape.rows << " x " << shape.columns);
      const std::int64_t scales = strides.count(shape.rows, shape.columns);
      const auto alpha = normals(scales, 2), beta = normals(scales, 3, 0.1);
      const auto bits = packed(normals(shape.rows * shape.columns, 4), shape);
      const auto expected = effective_by_reference(bits, alpha, beta, strides, shape);
      const DeviceArray<std::uint8_t> device_bits(bits);
      const DeviceArray<float> device_alpha(alpha), device_beta(beta);
      for_each_type([&](auto element) {
        using T = decltype(element);
        const DeviceArray<T> out(shape.rows * shape.columns);
        effective_weight(device_bits.data(), device_alpha.data(), device_beta.data(), strides,
                         shape, kElement<T>, out.data(), nullptr);
        EXPECT_EQ(bits_of(widened(out.values())), bits_of(widened(converted<T>(expected))));
      });
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaMatrix, UnpacksSignsAsBytesOfE4m3) {
  for (const MatrixShape& shape : kMatrixShapes) {
    for (const std::int64_t offset : {0, 1}) {
      const auto latent = normals(shape.rows * shape.columns, 8);
      const DeviceArray<std::uint8_t> bits(packed(latent, shape));
      const DeviceArray<std::uint8_t> out(offset + shape.rows * shape.columns);
      unpack_signs_e4m3(bits.data(), shape, out.data() + offset, nullptr);
      std::vector<std::uint8_t> expected;
      for (const float w : latent) expected.push_back(w >= 0 ? 0x38 : 0xB8);
      const auto found = out.values();
      EXPECT_EQ(std::vector<std::uint8_t>(found.begin() + offset, found.end()), expected)
          << shape.rows << " x " << shape.columns;
    }
  }
}

TEST_F(CudaMatrix, TakesMemoryThatIsNotAlignedToPacks) {
  const MatrixShape shape = {5, 32};
  const auto latent = normals(1 + shape.rows * shape.columns, 5);
  const std::vector<float> shifted(latent.begin() + 1, latent.end());
  const DeviceArray<float> device(latent), alpha(normals(32, 6)), beta(normals(32, 7));
  const DeviceArray<std::uint8_t> bits(shape.rows * row_bytes(shape.columns));
  pack_signs(device.data() + 1, shape, bits.data(), nullptr);
  EXPECT_EQ(bits.values(), packed(shifted, shape));
  const DeviceArray<float> out(1 + shape.rows * shape.columns);
  effective_weight(bits.data(), alpha.data(), beta.data(), ScaleStrides::per_column(), shape,
                   Element::kFp32, out.data() + 1, nullptr);
  const auto found = out.values();
  EXPECT_EQ(std::vector<float>(found.begin() + 1, found.end()),
            effective_by_reference(bits.values(), alpha.values(), beta.values(),
                                   ScaleStrides::per_column(), shape));
}

TEST_F(CudaMatrix, RefusesStridesOfNoPattern) {
  test::expect_error<UsageError>(
      [] {
        effective_weight(nullptr, nullptr, nullptr, {1, 1}, {1, 1}, Element::kFp32, nullptr,
                         nullptr);
      },
      "found {1, 1}");
  test::expect_error<UsageError>(
      [] {
        scale_gradients(nullptr, nullptr, nullptr, {2, 0}, {1, 1}, nullptr, nullptr, nullptr,
                        nullptr, nullptr);
      },
      "found {2, 0}");
  test::expect_error<UsageError>(
      [] {
        adamw_latent(nullptr, nullptr, nullptr, nullptr, nullptr, {0, 3}, {1, 1}, nullptr, {},
                     nullptr, nullptr);
      },
      "found {0, 3}");
}

constexpr AdamWStep kStep = {.lr = 0.02,  // as large as a weight, so that many signs flip
                             .weight_decay = 0.1,
                             .bias_correction1 = 0.19,
                             .sqrt_bias_correction2 = 0.31,
                             .grad_scale = 0.37};

struct State {
  std::vector<float> value, moment1, moment2, grad;

  explicit State(std::int64_t count)
      : value(with_special_values(normals(count, 1, 0.02))),
        moment1(normals(count, 2, 1e-3)),
        moment2(normals(count, 3, 1e-3)),
        grad(normals(count, 4, 1e-2)) {
    for (float& v : moment2) v *= v;
    if (count > 9) grad[9] = INFINITY;
  }
};

/// Bits of floats; all NaN are one, because devices have one of their own.
std::vector<std::uint32_t> number_bits(std::vector<float> values) {
  for (float& x : values) {
    if (std::isnan(x)) x = NAN;
  }
  return bits_of(values);
}

struct Updated {
  std::vector<std::uint32_t> value, moment1, moment2;
  std::vector<std::uint8_t> bits;
  std::int64_t flips = 0;
  bool operator==(const Updated&) const = default;
};

TEST_F(CudaAdamW, DenseEqualsTheReferenceBitForBit) {
  for (std::int64_t count : {1, 3, 4, 31, 1023, 1024, 1027, 5000}) {
    const State state(count);
    const auto expected = reference([&] {
      State s = state;
      SerialFor serial;
      kernels::adamw(s.value.data(), s.moment1.data(), s.moment2.data(), s.grad.data(), count,
                     kStep, serial);
      return Updated{number_bits(s.value), number_bits(s.moment1), number_bits(s.moment2), {}, 0};
    });
    for (std::int64_t offset : {0, 1}) {  // 1: not aligned to packs
      const auto shifted = [&](std::vector<float> values) {
        values.insert(values.begin(), static_cast<std::size_t>(offset), -3.0f);
        return values;
      };
      const DeviceArray<float> value(shifted(state.value)), moment1(shifted(state.moment1)),
          moment2(shifted(state.moment2)), grad(shifted(state.grad));
      adamw(value.data() + offset, moment1.data() + offset, moment2.data() + offset,
            grad.data() + offset, count, kStep, nullptr);
      const auto result = [&](const DeviceArray<float>& array) {
        auto values = array.values();
        if (offset) EXPECT_EQ(values[0], -3);
        values.erase(values.begin(), values.begin() + offset);
        return number_bits(values);
      };
      EXPECT_EQ((Updated{result(value), result(moment1), result(moment2), {}, 0}), expected)
          << count << " at " << offset;
    }
  }
}

TEST_F(CudaAdamW, LatentEqualsTheReferenceBitForBitAndCountsFlips) {
  for (const auto& [name, strides] : kPatterns) {
    for (const MatrixShape& shape : kMatrixShapes) {
      const State state(shape.rows * shape.columns);
      const auto alpha = normals(strides.count(shape.rows, shape.columns), 5);
      const auto before = packed(state.value, shape);
      const auto expected = reference([&] {
        State s = state;
        auto bits = before;
        SerialFor serial;
        const std::int64_t flips =
            kernels::adamw_latent(s.value.data(), s.moment1.data(), s.moment2.data(), s.grad.data(),
                                  alpha.data(), strides, shape, bits.data(), kStep, serial);
        return Updated{number_bits(s.value), number_bits(s.moment1), number_bits(s.moment2), bits,
                       flips};
      });
      const DeviceArray<float> value(state.value), moment1(state.moment1), moment2(state.moment2),
          grad(state.grad), device_alpha(alpha);
      const DeviceArray<std::uint8_t> bits(before);
      const DeviceArray<std::int64_t> flips(std::vector<std::int64_t>{1000});
      adamw_latent(value.data(), moment1.data(), moment2.data(), grad.data(), device_alpha.data(),
                   strides, shape, bits.data(), kStep, flips.data(), nullptr);
      const Updated found = {number_bits(value.values()), number_bits(moment1.values()),
                             number_bits(moment2.values()), bits.values(),
                             flips.values()[0] - 1000};
      EXPECT_TRUE(found == expected) << name << " " << shape.rows << " x " << shape.columns
                                     << ", flips " << found.flips << " and " << expected.flips;
    }
  }
}

struct Gradients {
  std::vector<float> dalpha, dbeta;
  double squares = 0;
  bool operator==(const Gradients&) const = default;
};

struct GradientProblem {
  MatrixShape shape;
  ScaleStrides strides;
  std::vector<float> raw_grad, alpha;
  std::vector<std::uint8_t> bits;

  GradientProblem(MatrixShape shape_, ScaleStrides strides_)
      : shape(shape_),
        strides(strides_),
        raw_grad(normals(shape.rows * shape.columns, 1, 1e-3)),
        alpha(normals(strides.count(shape.rows, shape.columns), 2)),
        bits(packed(normals(shape.rows * shape.columns, 3), shape)) {}

  Gradients on_device() const {
    const DeviceArray<float> grad(raw_grad), device_alpha(alpha), dalpha(std::ssize(alpha)),
        dbeta(std::ssize(alpha));
    const DeviceArray<std::uint8_t> device_bits(bits);
    const DeviceArray<double> squares(1), workspace(scale_gradients_workspace(strides, shape));
    scale_gradients(grad.data(), device_bits.data(), device_alpha.data(), strides, shape,
                    dalpha.data(), dbeta.data(), squares.data(), workspace.data(), nullptr);
    return {dalpha.values(), dbeta.values(), squares.values()[0]};
  }
  Gradients by_reference() const {
    return reference([&] {
      Gradients result = {std::vector<float>(alpha.size()), std::vector<float>(alpha.size())};
      SerialFor serial;
      result.squares =
          kernels::scale_gradients(raw_grad.data(), bits.data(), alpha.data(), strides, shape,
                                   result.dalpha.data(), result.dbeta.data(), serial);
      return result;
    });
  }
};

TEST_F(CudaSums, ScaleGradientsAgreeWithTheReference) {
  // Around a warp's two rows, a block's eight and 128; more columns, or rows, than the last block
  // has threads; no row, as of a rank that has none.
  const std::vector<MatrixShape> shapes = {{0, 9},   {1, 1},    {3, 5},   {9, 12},
                                           {17, 31}, {130, 37}, {2, 515}, {520, 2}};
  for (const auto& [name, strides] : kPatterns) {
    for (const MatrixShape& shape : shapes) {
      SCOPED_TRACE(testing::Message() << name << " " << shape.rows << " x " << shape.columns);
      const GradientProblem problem(shape, strides);
      const Gradients found = problem.on_device(), expected = problem.by_reference();
      if (strides.count(shape.rows, shape.columns) != 1) {
        EXPECT_EQ(bits_of(found.dalpha), bits_of(expected.dalpha));
        EXPECT_EQ(bits_of(found.dbeta), bits_of(expected.dbeta));
      } else {
        // Double sums in another order, rounded to fp32 once; relative to the sum of magnitudes, at
        // most Σ|G|.
        const double magnitude = 1e-3 * static_cast<double>(shape.rows * shape.columns);
        EXPECT_NEAR(found.dalpha[0], expected.dalpha[0], 1e-7 * magnitude);
        EXPECT_NEAR(found.dbeta[0], expected.dbeta[0], 1e-7 * magnitude);
      }
      EXPECT_NEAR(found.squares, expected.squares, 1e-13 * expected.squares)
          << "double sums in another order";
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaSums, EveryRunGivesTheSameBits) {
  for (const auto& [name, strides] : kPatterns) {
    const GradientProblem problem({20, 37}, strides);
    const Gradients first = problem.on_device();
    for (int run = 0; run < 2; ++run) EXPECT_EQ(problem.on_device(), first) << name;
  }
}

TEST_F(CudaSums, NonFiniteGradientReachesTheNorm) {
  for (const auto& [name, strides] : kPatterns) {
    for (float bad : {INFINITY, -INFINITY, NAN}) {
      GradientProblem problem({3, 36}, strides);
      problem.raw_grad[77] = bad;
      EXPECT_FALSE(std::isfinite(problem.on_device().squares)) << name;
    }
  }
}

TEST_F(CudaSums, SumOfSquares) {
  for (std::int64_t count : {0, 1, 3, 4, 1023, 16384, 16385, 40003}) {
    for (std::int64_t offset : {0, 1}) {
      const auto x = normals(count + offset, 7);
      const double expected = reference([&] {
        SerialFor serial;
        return kernels::sum_of_squares(x.data() + offset, count, serial);
      });
      const DeviceArray<float> device(x);
      const DeviceArray<double> out(1), workspace(sum_of_squares_workspace(count));
      sum_of_squares(device.data() + offset, count, out.data(), workspace.data(), nullptr);
      const double found = out.values()[0];
      EXPECT_NEAR(found, expected, 1e-13 * expected) << count << ": double sums in another order";
      sum_of_squares(device.data() + offset, count, out.data(), workspace.data(), nullptr);
      EXPECT_EQ(out.values()[0], found) << "another run";
    }
  }
}

}  // namespace
}  // namespace fbi::kernels::cuda
