#include <algorithm>
#include <functional>
#include <numeric>

#include "fbi/core/error.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaRmsNorm = OnDevice;
using CudaRotary = OnDevice;
using CudaSilu = OnDevice;
using CudaEmbedding = OnDevice;

/// Values as the type holds them.
template <class T>
std::vector<float> held(std::int64_t count, std::uint64_t stream) {
  return widened(converted<T>(normals(count, stream)));
}

/// Within one rounding to T and `tolerance`, relative to the larger of the value and `scale`.
template <class T>
void expect_near(const std::vector<float>& found, const std::vector<double>& expected,
                 double tolerance, double scale = 1) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < found.size(); ++k) {
    const double magnitude = std::abs(expected[k]);
    const double bound = kRounding<T> * magnitude + tolerance * std::max(scale, magnitude) +
                         6e-8 * (kElement<T> == Element::kFp16);
    ASSERT_NEAR(found[k], expected[k], bound) << "element " << k;
  }
}

constexpr double kEps = 1e-5;

/// The definition in double: one token.
struct NormOfToken {
  std::vector<double> normalised;
  double inverse;

  NormOfToken(const std::vector<float>& x, std::int64_t token, std::int64_t width)
      : normalised(x.begin() + token * width, x.begin() + (token + 1) * width) {
    double squares = 0;
    for (double value : normalised) squares += value * value;
    inverse = 1 / std::sqrt(squares / static_cast<double>(width) + kEps);
    for (double& value : normalised) value *= inverse;
  }
};

template <class X, class Y>
void expect_norm(std::int64_t tokens, std::int64_t width) {
  SCOPED_TRACE(testing::Message() << tokens << " x " << width);
  const auto x = held<X>(tokens * width, 1), dout = held<Y>(tokens * width, 2),
             weight = normals(width, 3);
  const DeviceArray<X> device_x(converted<X>(x)), dx(tokens * width);
  const DeviceArray<Y> out(tokens * width), device_dout(converted<Y>(dout));
  const DeviceArray<float> device_weight(weight), inverse_rms(tokens),
      workspace(rms_norm_backward_workspace(tokens, width)),
      dweight(std::vector<float>(weight.size(), 0.5f));
  RmsNormArgs args;
  args.x = device_x.data();
  args.x_type = kElement<X>;
  args.weight = device_weight.data();
  args.tokens = tokens;
  args.width = width;
  rms_norm(args, kEps, out.data(), kElement<Y>, inverse_rms.data(), nullptr);
  rms_norm_backward(args, inverse_rms.data(), device_dout.data(), kElement<Y>, dx.data(),
                    dweight.data(), workspace.data(), nullptr);

  std::vector<double> expected, expected_dx, expected_dweight(weight.size(), 0.5);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const NormOfToken norm(x, t, width);
    double mean = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const double dy = dout[t * width + i];
      expected.push_back(norm.normalised[i] * weight[i]);
      expected_dweight[i] += dy * norm.normalised[i];
      mean += dy * weight[i] * norm.normalised[i] / static_cast<double>(width);
    }
    for (std::int64_t i = 0; i < width; ++i) {
      expected_dx.push_back(norm.inverse *
                            (dout[t * width + i] * weight[i] - norm.normalised[i] * mean));
    }
  }
  // fp32 sums of at most width / 256 + 3 terms before they go to double; values of some units.
  expect_near<Y>(widened(out.values()), expected, 1e-6);
  expect_near<X>(widened(dx.values()), expected_dx, 3e-6);
  expect_near<float>(dweight.values(), expected_dweight, 3e-6);
}

TEST_F(CudaRmsNorm, AgreesWithTheDefinition) {
  expect_norm<float, float>(1, 1);
  expect_norm<float, float>(3, 7);
  for_each_type([](auto in) {
    for_each_type([](auto out) { expect_norm<decltype(in), decltype(out)>(2, 64); });
  });
  expect_norm<float, __nv_bfloat16>(10, 1027);  // a second pack for some threads
  expect_norm<float, float>(8 * 16 + 1, 4);     // more blocks than slices of the weight's sum
  expect_norm<float, float>(2 * 1024 + 1, 4);   // three tokens of a block
}

TEST_F(CudaRmsNorm, RowsWiderThanRegisters) {
  expect_norm<float, float>(2, 8192);
  expect_norm<float, float>(2, 8196);
}

TEST_F(CudaRmsNorm, WeightGradientIsOptionalAndThePlaceOfTheGradientFree) {
  const std::int64_t tokens = 10, width = 40;
  const DeviceArray<float> x(normals(tokens * width, 1)), dout(normals(tokens * width, 2)),
      weight(normals(width, 3)), inverse_rms(tokens), out(tokens * width), dx(tokens * width);
  RmsNormArgs args;
  args.x = x.data();
  args.weight = weight.data();
  args.tokens = tokens;
  args.width = width;
  rms_norm(args, kEps, out.data(), Element::kFp32, inverse_rms.data(), nullptr);
  rms_norm_backward(args, inverse_rms.data(), dout.data(), Element::kFp32, dx.data(), nullptr,
                    nullptr, nullptr);
  rms_norm_backward(args, inverse_rms.data(), dout.data(), Element::kFp32, dout.data(), nullptr,
                    nullptr, nullptr);
  EXPECT_EQ(bits_of(dout.values()), bits_of(dx.values()));
}

/// Heads of one projection, [batch, positions, heads, head_dim] in memory.
struct RotaryProblem {
  std::int64_t batch = 2, heads = 3, positions = 5, head_dim = 8;
  std::int64_t count() const { return batch * heads * positions * head_dim; }
  RotaryStrides by_position() const {
    return {positions * heads * head_dim, head_dim, heads * head_dim};
  }
  RotaryStrides by_head() const {
    return {heads * positions * head_dim, positions * head_dim, head_dim};
  }
};

template <class T>
void expect_rotary(const RotaryProblem& p, bool inverse) {
  const std::int64_t half = p.head_dim / 2;
  const auto x = held<T>(p.count(), 1);
  std::vector<float> cos, sin;
  for (std::int64_t k = 0; k < p.positions * half; ++k) {
    cos.push_back(widened(converted<T>(std::cos(0.37f * static_cast<float>(k)))));
    sin.push_back(widened(converted<T>(std::sin(0.37f * static_cast<float>(k)))));
  }
  const DeviceArray<T> device_x(converted<T>(x)), out(p.count()), device_cos(converted<T>(cos)),
      device_sin(converted<T>(sin));
  RotaryArgs args;
  args.x = device_x.data();
  args.out = out.data();
  args.type = kElement<T>;
  args.x_strides = p.by_position();
  args.out_strides = p.by_head();
  args.batch = p.batch;
  args.heads = p.heads;
  args.positions = p.positions;
  args.head_dim = p.head_dim;
  args.cos = device_cos.data();
  args.sin = device_sin.data();
  args.inverse = inverse;
  rotary(args, nullptr);
  std::vector<double> expected;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t h = 0; h < p.heads; ++h) {
      for (std::int64_t s = 0; s < p.positions; ++s) {
        const float* head = &x[((b * p.positions + s) * p.heads + h) * p.head_dim];
        for (std::int64_t e = 0; e < p.head_dim; ++e) {
          const double c = cos[s * half + e % half],
                       angle = sin[s * half + e % half] * (inverse ? -1.0 : 1.0);
          expected.push_back(e < half ? head[e] * c - head[e + half] * angle
                                      : head[e] * c + head[e - half] * angle);
        }
      }
    }
  }
  expect_near<T>(widened(out.values()), expected, 3e-7);  // two products and a sum in fp32
}

TEST_F(CudaRotary, AgreesWithTheDefinition) {
  for (std::int64_t head_dim : {2, 8, 10, 64}) {
    for (std::int64_t positions : {1, 5, 70}) {
      SCOPED_TRACE(testing::Message() << positions << " positions, heads of " << head_dim);
      for_each_type([&](auto element) {
        expect_rotary<decltype(element)>({2, 3, positions, head_dim}, false);
        expect_rotary<decltype(element)>({2, 3, positions, head_dim}, true);
      });
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaRotary, ReplacesItsInputAndRefusesOddHeads) {
  const RotaryProblem p;
  const DeviceArray<float> x(normals(p.count(), 1)), out(p.count()),
      cos(normals(p.positions * 4, 2)), sin(normals(p.positions * 4, 3));
  RotaryArgs args;
  args.x = x.data();
  args.out = out.data();
  args.x_strides = args.out_strides = p.by_position();
  args.batch = p.batch;
  args.heads = p.heads;
  args.positions = p.positions;
  args.head_dim = p.head_dim;
  args.cos = cos.data();
  args.sin = sin.data();
  rotary(args, nullptr);
  args.out = x.data();
  rotary(args, nullptr);
  EXPECT_EQ(bits_of(x.values()), bits_of(out.values()));
  args.head_dim = 7;
  test::expect_error<UsageError>([&] { rotary(args, nullptr); },
                                 "expected an even head size, found 7");
}

TEST_F(CudaSilu, AgreesWithTheDefinition) {
  for_each_type([&](auto element) {
    using T = decltype(element);
    for (std::int64_t count : {1, 7, 8, 2048, 2051}) {
      SCOPED_TRACE(testing::Message() << count << " elements");
      auto gate = held<T>(count, 1);
      const auto up = held<T>(count, 2), dout = held<T>(count, 3);
      if (count > 2) gate[1] = -30, gate[2] = 30;
      const DeviceArray<T> device_gate(converted<T>(gate)), device_up(converted<T>(up)),
          device_dout(converted<T>(dout)), out(count);
      silu_product(device_gate.data(), device_up.data(), kElement<T>, count, out.data(), nullptr);
      const auto found = widened(out.values());
      // In place: the gradients replace what they come from.
      silu_product_backward(device_dout.data(), device_gate.data(), device_up.data(), kElement<T>,
                            count, device_gate.data(), device_up.data(), nullptr);
      std::vector<double> expected, expected_dgate, expected_dup;
      for (std::int64_t k = 0; k < count; ++k) {
        const double sigmoid = 1 / (1 + std::exp(-double{gate[k]})), silu = gate[k] * sigmoid;
        expected.push_back(silu * up[k]);
        expected_dgate.push_back(dout[k] * up[k] * sigmoid * (1 + gate[k] * (1 - sigmoid)));
        expected_dup.push_back(dout[k] * silu);
      }
      expect_near<T>(found, expected, 1e-6);
      expect_near<T>(widened(device_gate.values()), expected_dgate, 1e-6);
      expect_near<T>(widened(device_up.values()), expected_dup, 1e-6);
    }
  });
}

template <class T>
void expect_embedding_gradient(std::int64_t tokens, std::int64_t width) {
  SCOPED_TRACE(testing::Message() << tokens << " x " << width);
  constexpr std::int64_t kRows = 9, kSkip = 5;
  std::vector<std::int64_t> ids;  // from -1 to 10: some are outside
  for (std::int64_t t = 0; t < tokens; ++t) ids.push_back(t % 4 == 0 ? 2 : t * t * 7 % 12 - 1);
  if (tokens > 3) ids[3] = kSkip;
  const auto dx = held<T>(tokens * width, 2), before = normals(kRows * width, 1);
  auto expected = before;
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (ids[t] < 0 || ids[t] >= kRows || ids[t] == kSkip) continue;
    for (std::int64_t c = 0; c < width; ++c) expected[ids[t] * width + c] += dx[t * width + c];
  }
  std::vector<std::int64_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](std::int64_t t) { return ids[t]; });
  std::ranges::sort(ids);
  const DeviceArray<std::int64_t> device_ids(ids), device_order(order);
  const DeviceArray<T> device_dx(converted<T>(dx));
  const DeviceArray<float> grad(before);
  EmbeddingGradientArgs args;
  args.ids = device_ids.data();
  args.order = device_order.data();
  args.dx = device_dx.data();
  args.type = kElement<T>;
  args.tokens = tokens;
  args.rows = kRows;
  args.width = width;
  args.skip_id = kSkip;
  args.grad = grad.data();
  accumulate_embedding_gradient(args, nullptr);
  EXPECT_EQ(bits_of(grad.values()), bits_of(expected));
}

TEST_F(CudaEmbedding, GradientHasTheBitsOfALoopOverTheTokens) {
  for_each_type([](auto element) {
    expect_embedding_gradient<decltype(element)>(1, 3);
    expect_embedding_gradient<decltype(element)>(20, 1100);  // wider than a block
    expect_embedding_gradient<decltype(element)>(32, 8);     // whole packs; one id has just 8 rows
  });
  expect_embedding_gradient<float>(270, 2);
}

}  // namespace
}  // namespace fbi::kernels::cuda
