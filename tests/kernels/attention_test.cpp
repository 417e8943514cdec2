#include "fbi/kernels/attention.h"

#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Attention);
FBI_EVERY_LEVEL_BUT_REF(AttentionPieces);

struct Sizes {
  std::int64_t batch, positions, heads, key_value_heads, head_dim;
};
/// Less, as much and more than a block of queries; parts of registers; heads that share keys.
const std::vector<Sizes> kSizes = {{1, 1, 1, 1, 2},    {2, 7, 2, 1, 8},   {1, 47, 1, 1, 20},
                                   {1, 48, 2, 2, 16},  {2, 49, 4, 2, 64}, {1, 100, 3, 1, 36},
                                   {1, 150, 1, 1, 128}};

/// Queries, keys, values and the gradient of the output, and what attention makes of them in
/// double. Queries, keys and values lie in one row of memory, as a joint product would leave them.
struct AttentionCase {
  explicit AttentionCase(const Sizes& sizes)
      : s(sizes),
        width((s.heads + 2 * s.key_value_heads) * s.head_dim),
        x(normals(s.batch * s.positions * width, 1)),
        dout(normals(out_count(), 2)) {}

  std::int64_t out_count() const { return s.batch * s.positions * s.heads * s.head_dim; }
  std::int64_t key_count() const { return s.batch * s.positions * s.key_value_heads * s.head_dim; }
  HeadValues values(std::int64_t first_head) const {
    return {x.data() + first_head * s.head_dim, s.positions * width, width, s.head_dim};
  }
  AttentionInput input() const {
    return {.batch = s.batch,
            .positions = s.positions,
            .heads = s.heads,
            .key_value_heads = s.key_value_heads,
            .head_dim = s.head_dim,
            .queries = values(0),
            .keys = values(s.heads),
            .values = values(s.heads + s.key_value_heads)};
  }
  HeadValues out_gradient() const {
    const std::int64_t row = s.heads * s.head_dim;
    return {dout.data(), s.positions * row, row, s.head_dim};
  }

  const Sizes s;
  const std::int64_t width;
  const std::vector<float> x, dout;
};

double dot(const float* a, const float* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += double{a[i]} * b[i];
  return sum;
}

/// The definition, in double.
struct Expected {
  explicit Expected(const AttentionCase& p)
      : out(p.out_count()), queries(p.out_count()), keys(p.key_count()), values(p.key_count()) {
    for (std::int64_t b = 0; b < p.s.batch; ++b) {
      for (std::int64_t h = 0; h < p.s.heads; ++h) {
        for (std::int64_t t = 0; t < p.s.positions; ++t) add_query(p, b, h, t);
      }
    }
  }
  void add_query(const AttentionCase& p, std::int64_t b, std::int64_t h, std::int64_t t) {
    const auto [batch, positions, heads, key_heads, dim] = p.s;
    const std::int64_t key_head = h / (heads / key_heads);
    const auto row = [&, b = b](const HeadValues& v, std::int64_t head, std::int64_t position) {
      return v.x + b * v.batch_stride + head * v.head_stride + position * v.position_stride;
    };
    const AttentionInput in = p.input();
    const float* query = row(in.queries, h, t);
    const float* dout = row(p.out_gradient(), h, t);
    const double scale = 1 / std::sqrt(static_cast<double>(dim));
    std::vector<double> probability(t + 1), gradient(t + 1);
    double sum = 0, mean = 0;
    for (std::int64_t k = 0; k <= t; ++k) {
      probability[k] = std::exp(scale * dot(query, row(in.keys, key_head, k), dim));
      sum += probability[k];
    }
    for (std::int64_t k = 0; k <= t; ++k) {
      probability[k] /= sum;
      gradient[k] = dot(dout, row(in.values, key_head, k), dim);
      mean += probability[k] * gradient[k];
    }
    const std::int64_t own = ((b * positions + t) * heads + h) * dim;
    for (std::int64_t k = 0; k <= t; ++k) {
      const double score = probability[k] * (gradient[k] - mean) * scale;
      const std::int64_t other = ((b * positions + k) * key_heads + key_head) * dim;
      for (std::int64_t d = 0; d < dim; ++d) {
        out[own + d] += probability[k] * row(in.values, key_head, k)[d];
        queries[own + d] += score * row(in.keys, key_head, k)[d];
        keys[other + d] += score * query[d];
        values[other + d] += probability[k] * dout[d];
      }
    }
  }
  std::vector<double> out, queries, keys, values;
};

struct Result {
  Result(const AttentionCase& p, ParallelFor& parallel)
      : out(p.out_count(), NAN),
        queries(p.out_count(), NAN),
        keys(p.key_count(), NAN),
        values(p.key_count(), NAN),
        max(p.s.batch * p.s.heads * p.s.positions, NAN),
        inverse_sum(p.s.batch * p.s.heads * p.s.positions, NAN) {
    const SoftmaxRows rows = {max.data(), inverse_sum.data()};
    causal_attention(p.input(), out.data(), rows, parallel);
    causal_attention_backward(p.input(), rows, p.out_gradient(),
                              {queries.data(), keys.data(), values.data()}, parallel);
  }
  Guarded<float> out, queries, keys, values, max, inverse_sum;
};

/// Sums of a few hundred terms of the size of 1 at most, in fp32, and an exponential.
void expect_near(Guarded<float>& found, const std::vector<double>& expected, const char* what) {
  for (std::int64_t i = 0; i < std::ssize(expected); ++i) {
    ASSERT_NEAR(found.data()[i], expected[i], 4e-6 * (1 + std::abs(expected[i])))
        << what << " " << i;
  }
}

TEST_P(Attention, IsTheDefinitionForwardAndBackward) {
  for (const Sizes& sizes : kSizes) {
    const AttentionCase problem(sizes);
    const Expected expected(problem);
    CutFor two(2);
    Result found(problem, two);
    expect_near(found.out, expected.out, "out");
    expect_near(found.queries, expected.queries, "queries");
    expect_near(found.keys, expected.keys, "keys");
    expect_near(found.values, expected.values, "values");
  }
}

TEST_P(Attention, DoesNotDependOnThreadsOrOtherSequences) {
  const AttentionCase problem({3, 61, 4, 2, 24});
  SerialFor serial;
  CutFor five(5);
  Result all(problem, serial), cut(problem, five);
  for (std::int64_t i = 0; i < problem.out_count(); ++i) {
    ASSERT_EQ(all.out.data()[i], cut.out.data()[i]);
    ASSERT_EQ(all.queries.data()[i], cut.queries.data()[i]);
  }
  for (std::int64_t i = 0; i < problem.key_count(); ++i) {
    ASSERT_EQ(all.keys.data()[i], cut.keys.data()[i]);
    ASSERT_EQ(all.values.data()[i], cut.values.data()[i]);
  }
  AttentionInput last = problem.input();  // the third sequence alone
  last.batch = 1;
  for (HeadValues* part : {&last.queries, &last.keys, &last.values})
    part->x += 2 * part->batch_stride;
  Guarded<float> alone(problem.out_count() / 3), max(4 * 61), inverse_sum(4 * 61);
  causal_attention(last, alone.data(), {max.data(), inverse_sum.data()}, serial);
  for (std::int64_t i = 0; i < problem.out_count() / 3; ++i)
    ASSERT_EQ(alone.data()[i], all.out.data()[2 * problem.out_count() / 3 + i]);
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  const Sizes sizes = {1, 60, 1, 1, 16};
  AttentionCase problem(sizes);
  std::vector<float> large = problem.x;
  for (float& x : large) x *= 300;
  AttentionInput input = problem.input();
  for (HeadValues* part : {&input.queries, &input.keys, &input.values})
    part->x = large.data() + (part->x - problem.x.data());
  Guarded<float> out(problem.out_count()), max(60), inverse_sum(60);
  SerialFor serial;
  causal_attention(input, out.data(), {max.data(), inverse_sum.data()}, serial);
  for (std::int64_t i = 0; i < problem.out_count(); ++i) ASSERT_TRUE(std::isfinite(out.data()[i]));
}

/// Every order of a's and b's elements that attention uses; each element's sum has one order.
TEST_P(AttentionPieces, ProductsHaveTheBitsOfTheReference) {
  for (const std::int64_t rows : {1, 5, 6, 7, 11, 12, 13, 48}) {
    for (const std::int64_t columns : {1, 15, 16, 17, 64}) {
      for (const bool transposed : {false, true}) {
        const std::int64_t depth = 19, lanes = kLanes;
        const auto a = normals(rows * depth, 1), b = normals((columns + lanes) * depth, 2);
        Guarded<float> found(normals(rows * columns, 3)), expected(normals(rows * columns, 3));
        SmallProduct product = {.a = a.data(),
                                .a_row = transposed ? 1 : depth,
                                .a_depth = transposed ? rows : 1,
                                .b = b.data(),
                                .b_block = transposed ? lanes * depth : lanes,
                                .b_depth = transposed ? lanes : columns,
                                .c = found.data(),
                                .c_row = columns,
                                .rows = rows,
                                .columns = columns,
                                .depth = depth};
        cpu_kernels().multiply(product, transposed);
        product.c = expected.data();
        kRefKernels.multiply(product, transposed);
        for (std::int64_t i = 0; i < rows * columns; ++i)
          ASSERT_EQ(found.data()[i], expected.data()[i]) << rows << " x " << columns << ", " << i;
      }
    }
  }
}

/// What lies between the rows of the result stays as it is.
TEST_P(AttentionPieces, TransposeIsThatOfTheReference) {
  for (const std::int64_t rows : {1, 3, 4, 5, 12, 17, 35}) {
    for (const std::int64_t columns : {1, 3, 4, 6, 16, 19}) {
      const auto x = normals(rows * (columns + 3), 1), shift = normals(columns, 2);
      for (const float* added : {static_cast<const float*>(nullptr), shift.data()}) {
        const auto transposed = [&] {
          Guarded<float> out(columns * (rows + 2));
          std::fill_n(out.data(), columns * (rows + 2), 7.0f);
          cpu_kernels().transpose(x.data(), columns + 3, rows, columns, added, out.data(),
                                  rows + 2);
          return out.values();
        };
        EXPECT_EQ(transposed(), reference(transposed)) << rows << " x " << columns;
      }
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
