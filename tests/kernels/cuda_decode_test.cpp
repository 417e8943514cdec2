#include <algorithm>

#include "fbi/core/error.h"
#include "fbi/kernels/gemv.h"
#include "kernels/cuda_decode_support.h"
#include "kernels/stored_row.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaDecode = OnDevice;

struct Heads {
  std::int64_t heads, key_value_heads, head_dim;
};

AttentionShape attention_shape(const Heads& heads, CacheType cache, std::int64_t most = 2200) {
  return {heads.heads, heads.key_value_heads, heads.head_dim, /*layer=*/1, /*layers=*/3, cache,
          most};
}

float rounded_as(CacheType type, float x) {
  return type == CacheType::kFp32 ? x : __half2float(__float2half_rn(x));
}

/// A sequence's cache on the device; values are set and read by place.
class Cache {
 public:
  Cache(const AttentionShape& shape, std::int64_t positions)
      : shape_(shape), bytes_(static_cast<std::size_t>(positions * shape.position_bytes())) {}

  void set(std::int64_t position, int part, std::int64_t head, std::int64_t e, float x) {
    const __half half = __float2half_rn(x);
    if (shape_.cache == CacheType::kFp32) {
      std::memcpy(&bytes_[place(position, part, head, e)], &x, sizeof x);
    } else {
      std::memcpy(&bytes_[place(position, part, head, e)], &half, sizeof half);
    }
  }
  double get(std::int64_t position, int part, std::int64_t head, std::int64_t e) const {
    float x;
    __half half;
    if (shape_.cache == CacheType::kFp32) {
      std::memcpy(&x, &bytes_[place(position, part, head, e)], sizeof x);
      return x;
    }
    std::memcpy(&half, &bytes_[place(position, part, head, e)], sizeof half);
    return __half2float(half);
  }
  std::byte* upload() {
    device_ = std::make_unique<DeviceArray<std::byte>>(bytes_);
    return device_->data();
  }
  void download() { bytes_ = device_->values(); }

 private:
  std::size_t place(std::int64_t position, int part, std::int64_t head, std::int64_t e) const {
    const std::int64_t vector =
        ((position * shape_.layers + shape_.layer) * 2 + part) * shape_.key_value_heads + head;
    return static_cast<std::size_t>((vector * padded_head(shape_.head_dim) + e) *
                                    size_of(shape_.cache));
  }
  AttentionShape shape_;
  std::vector<std::byte> bytes_;
  std::unique_ptr<DeviceArray<std::byte>> device_;
};

// ---- project

/// Two tokens of one sequence.
void expect_projection(const Heads& heads, ScaleStrides strides, CacheType type) {
  constexpr std::int64_t kTokens = 2, kWidth = 70, kFirst = 5;
  const AttentionShape shape = attention_shape(heads, type);
  const std::int64_t d = heads.head_dim, queries = heads.heads * d,
                     keys = heads.key_value_heads * d;
  const SignMatrix q({queries, kWidth}, strides, 40, d), k({keys, kWidth}, strides, 50, d),
      v({keys, kWidth}, strides, 60);
  const auto x = normals(kTokens * kWidth, 3), angles = normals(kTokens * d, 7);
  const Passed in(kTokens, kWidth, reader_parts(1, kWidth), {&q, &k, &v}, normals(kWidth, 5));
  Cache cache(shape, 10);
  std::byte* memory = cache.upload();
  const DeviceArray<float> device_angles(angles), found(kTokens * queries);
  const DeviceArray<DecodeRow> rows(
      std::vector<DecodeRow>{{kFirst, memory, 0}, {kFirst + 1, memory, 0}});
  in.publish(x);
  project({q.on_device(), k.on_device(), v.on_device(), in.input(0), in.input(1), in.input(2),
           shape, kTokens, rows.data(), device_angles.data(), found.data()},
          nullptr);
  const auto query = found.values();
  cache.download();

  const auto seen = in.seen(x);
  const double rounding = type == CacheType::kFp32 ? 0 : 0x1p-11;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const float* cos = &angles[t * d];
    const float* sin = cos + d / 2;
    const auto rotated = [&](const std::vector<SignMatrix::Row>& y, std::int64_t o) {
      const std::int64_t e = o % d, pair = e % (d / 2);
      const double a = y[o - e + pair].value, b = y[o - e + pair + d / 2].value;
      return e < d / 2 ? a * cos[pair] - b * sin[pair] : b * cos[pair] + a * sin[pair];
    };
    const auto tolerance = [&](const SignMatrix::Row& row, double value) {
      return 1e-5 * row.magnitude + rounding * std::abs(value);  // cos and sin here are up to 4
    };
    const auto qs = q.product(seen[t]), ks = k.product(seen[t]), vs = v.product(seen[t]);
    for (std::int64_t o = 0; o < queries; ++o)
      ASSERT_NEAR(query[t * queries + o], rotated(qs, o), 1e-5 * qs[o].magnitude + 1e-5);
    for (std::int64_t o = 0; o < keys; ++o) {
      const double key = rotated(ks, o), value = vs[o].value;
      ASSERT_NEAR(cache.get(kFirst + t, 0, o / d, o % d), key, tolerance(ks[o], key) + 1e-5);
      ASSERT_NEAR(cache.get(kFirst + t, 1, o / d, o % d), value, tolerance(vs[o], value));
    }
  }
}

TEST_F(CudaDecode, ProjectsRotatesAndStores) {
  for (const Heads& heads : {Heads{3, 1, 12}, Heads{4, 2, 2}, Heads{2, 2, 64}, Heads{5, 5, 34}}) {
    for (const auto& [name, strides] : kPatterns) {
      SCOPED_TRACE(testing::Message() << name << " " << heads.heads << " x " << heads.head_dim);
      expect_projection(heads, strides, CacheType::kFp32);
      expect_projection(heads, strides, CacheType::kFp16);
      if (HasFailure()) return;
    }
  }
}

// ---- attend

struct Attended {
  std::vector<float> mixed;
  std::vector<std::vector<double>> expected;
};

/// Tokens of different sequences, one for each number of positions.
Attended attend_to(const Heads& heads, CacheType type, const std::vector<std::int64_t>& positions) {
  const AttentionShape shape = attention_shape(heads, type, *std::ranges::max_element(positions));
  const std::int64_t d = heads.head_dim, width = heads.heads * d,
                     group = heads.heads / heads.key_value_heads;
  const std::int64_t tokens = std::ssize(positions);
  Attended result;
  std::vector<float> queries;
  std::vector<std::unique_ptr<Cache>> caches;
  std::vector<DecodeRow> rows;
  for (const std::int64_t count : positions) {
    const auto query = normals(width, 70 + count, 2);
    queries.insert(queries.end(), query.begin(), query.end());
    caches.push_back(std::make_unique<Cache>(shape, count + 1));  // one more that must not count
    Cache& cache = *caches.back();
    std::uint64_t stream = 80 + count;
    for (std::int64_t p = 0; p <= count; ++p) {
      const auto values = normals(2 * heads.key_value_heads * d, ++stream);
      for (std::int64_t k = 0; k < std::ssize(values); ++k)
        cache.set(p, static_cast<int>(k / (heads.key_value_heads * d)),
                  k / d % heads.key_value_heads, k % d, values[k]);
    }
    std::vector<double> mixed(static_cast<std::size_t>(width));
    for (std::int64_t head = 0; head < heads.heads; ++head) {
      std::vector<double> weights;
      double sum = 0;
      for (std::int64_t p = 0; p < count; ++p) {
        double score = 0;
        for (std::int64_t e = 0; e < d; ++e)
          score += query[head * d + e] * cache.get(p, 0, head / group, e);
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
        sum += weights.back();
      }
      for (std::int64_t p = 0; p < count; ++p) {
        for (std::int64_t e = 0; e < d; ++e)
          mixed[head * d + e] += weights[p] / sum * cache.get(p, 1, head / group, e);
      }
    }
    result.expected.push_back(mixed);
    rows.push_back({count - 1, cache.upload(), 0});
  }
  const Passed out(tokens, width, reader_parts(heads.heads, d), {});
  const DeviceArray<float> device_queries(queries), workspace(attend_workspace(shape, tokens));
  const DeviceArray<unsigned> counters(
      std::vector<unsigned>(static_cast<std::size_t>(attend_counters(shape, tokens))));
  const DeviceArray<DecodeRow> device_rows(rows);
  attend(
      {shape, tokens, device_rows.data(), device_queries.data(), workspace.data(), counters.data()},
      out.readers(), nullptr);
  result.mixed = out.scaled();
  EXPECT_THAT(counters.values(), ::testing::Each(0u));
  return result;
}

void expect_attention(const Heads& heads, CacheType type,
                      const std::vector<std::int64_t>& positions) {
  const Attended found = attend_to(heads, type, positions);
  const std::int64_t width = heads.heads * heads.head_dim;
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::int64_t e = 0; e < width; ++e) {
      ASSERT_NEAR(found.mixed[t * width + e], found.expected[t][e], 5e-6)
          << positions[t] << " positions, element " << e;
    }
  }
}

TEST_F(CudaDecode, Attends) {
  for (const CacheType type : {CacheType::kFp32, CacheType::kFp16}) {
    // Around a split of 64, and where a block has two of them.
    expect_attention({4, 2, 12}, type, {1, 63, 64, 65, 300});
    expect_attention({2, 2, 64}, type, {3, 130});
    expect_attention({3, 1, 34}, type, {70});  // packs that do not divide the threads
    expect_attention({1, 1, 256}, type, {66});
    expect_attention({1, 1, 2}, type, {2200});
  }
}

TEST_F(CudaDecode, AttentionOfATokenDoesNotDependOnOthers) {
  const Heads heads = {2, 1, 12};
  const auto together = bits_of(attend_to(heads, CacheType::kFp32, {70, 200, 5}).mixed);
  const auto alone = bits_of(attend_to(heads, CacheType::kFp32, {70}).mixed);
  EXPECT_EQ(alone, std::vector<std::uint32_t>(together.begin(), together.begin() + 24));
}

TEST_F(CudaDecode, RefusesHeadsThatAreTooLarge) {
  test::expect_error<UsageError>(
      [] {
        attend({.shape = attention_shape({1, 1, 258}, CacheType::kFp32)}, {}, nullptr);
      },
      "256", "head_dim 258");
}

// ---- embedding and head

TEST_F(CudaDecode, EmbedsHalves) {
  const auto values = normals(3 * 40, 90);
  std::vector<__half> table = converted<__half>(values);
  const DeviceArray<__half> device_table(table);
  const DeviceArray<DecodeRow> rows(std::vector<DecodeRow>{{0, nullptr, 2}, {0, nullptr, 0}});
  const DeviceArray<float> residual(2 * 40);
  const Passed out(2, 40, reader_parts(1, 40), {});
  DenseMatrix matrix = {device_table.data(), nullptr, Storage::kFp16, {3, 40}, 2 * 40};
  embed(matrix, rows.data(), 2, residual.data(), out.readers(), nullptr);
  std::vector<float> expected = widened(table);
  expected.erase(expected.begin() + 40, expected.begin() + 80);
  std::rotate(expected.begin(), expected.begin() + 40, expected.end());
  EXPECT_EQ(residual.values(), expected);
  EXPECT_EQ(out.scaled(), expected);
  matrix.storage = Storage::kInt8;
  test::expect_error<UsageError>([&] { embed(matrix, nullptr, 1, nullptr, {}, nullptr); }, "int8");
}

TEST_F(CudaDecode, DenseProducts) {
  constexpr std::int64_t kTokens = 2;
  for (const MatrixShape& shape : std::vector<MatrixShape>{{1, 1}, {33, 70}, {97, 256}, {5, 300}}) {
    for (const Storage storage : {Storage::kFp32, Storage::kFp16, Storage::kInt8}) {
      DenseLinear linear(shape, storage);
      const auto values = normals(shape.rows * shape.columns, 90);
      const std::span<const float> all(values);
      for (std::int64_t o = 0; o < shape.rows; ++o)
        linear.set_row(o, all.subspan(o * shape.columns, shape.columns));
      const DeviceArray<std::byte> weights({linear.values().begin(), linear.values().end()});
      const DeviceArray<float> scales({linear.row_scales().begin(), linear.row_scales().end()});
      const auto x = normals(kTokens * shape.columns, 3);
      const Passed in(kTokens, shape.columns, reader_parts(1, shape.columns), {},
                      normals(shape.columns, 5));
      const DeviceArray<float> y(kTokens * shape.rows);
      in.publish(x);
      multiply_dense({weights.data(), scales.data(), storage, shape, linear.row_stride_bytes()},
                     in.input(), kTokens, y.data(), nullptr);
      const auto found = y.values();
      const auto seen = in.seen(x);
      for (std::int64_t o = 0; o < shape.rows; ++o) {
        const auto row = stored_row(linear, o);
        for (std::int64_t t = 0; t < kTokens; ++t) {
          double sum = 0, magnitude = 0;
          for (std::int64_t i = 0; i < shape.columns; ++i) {
            sum += row[i] * seen[t][i];
            magnitude += std::abs(row[i] * seen[t][i]);
          }
          ASSERT_NEAR(found[t * shape.rows + o], sum, 2e-6 * magnitude) << "row " << o;
        }
      }
    }
  }
}

TEST_F(CudaDecode, ReadsAllOfAMemory) {
  std::vector<unsigned> values(4 * 1000);
  const DeviceArray<unsigned> memory(values), sink(std::vector<unsigned>{7});
  read_all(memory.data(), 16 * 1000, sink.data(), nullptr);
  EXPECT_EQ(sink.values()[0], 7u);
}

}  // namespace
}  // namespace fbi::kernels::cuda
