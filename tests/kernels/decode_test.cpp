#include "fbi/kernels/decode.h"

#include <cmath>

#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(DecodeVectors);  // the portable level has those of the reference
FBI_EVERY_LEVEL(Decode);
INSTANTIATE_TEST_SUITE_P(WithoutInstructionSets, Decode, ::testing::Values(Level::kPortable),
                         level_test_name);
FBI_EVERY_LEVEL_BUT_REF(DecodeCache);
INSTANTIATE_TEST_SUITE_P(WithoutInstructionSets, DecodeCache, ::testing::Values(Level::kPortable),
                         level_test_name);

TEST_P(DecodeVectors, NormDividesByTheRootOfTheMeanSquare) {
  for (const std::int64_t count : kOddSizes) {
    const auto x = normals(count, 1), weight = normals(count, 2);
    Guarded<float> out(count);
    rms_norm(x.data(), weight.data(), count, 1e-5, out.data());
    double squares = 0;
    for (const float v : x) squares += double{v} * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(count) + 1e-5);
    for (std::int64_t i = 0; i < count; ++i) {
      EXPECT_NEAR(out.data()[i], x[i] * factor * weight[i],
                  3e-7 * std::abs(x[i] * weight[i] * factor));
    }
  }
}

TEST_P(DecodeVectors, GateIsSiluTimesUp) {
  for (const std::int64_t count : kOddSizes) {
    auto gate = normals(count, 1, 8);
    const auto up = normals(count, 2);
    gate[0] = count % 2 ? 200.0f : -200.0f;  // beyond what exp can hold
    Guarded<float> found(gate);
    silu_product(found.data(), up.data(), count);
    for (std::int64_t i = 0; i < count; ++i) {
      const double expected = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      EXPECT_NEAR(found.data()[i], expected, 1e-6 * std::abs(expected) + 1e-30) << gate[i];
    }
  }
}

struct Cache {
  Cache(std::int64_t positions, std::int64_t head_dim, CacheType cache_type)
      : type(cache_type),
        width(padded_head(head_dim)),
        keys(static_cast<std::size_t>(positions * width * size_of(type)), std::byte{0xAA}),
        values(keys) {
    for (std::int64_t p = 0; p < positions; ++p) {
      store_cache(normals(head_dim, 10 + p).data(), head_dim, type, at(keys, p));
      store_cache(normals(head_dim, 5000 + p).data(), head_dim, type, at(values, p));
    }
  }
  std::byte* at(std::vector<std::byte>& memory, std::int64_t position) {
    return memory.data() + position * width * size_of(type);
  }
  CacheType type;
  std::int64_t width;
  std::vector<std::byte> keys, values;
};

TEST_P(DecodeCache, InHalvesRoundsAsTheReference) {
  for (const std::int64_t head_dim : {1, 7, 8, 15, 16, 24, 64, 77}) {
    std::vector<float> x = normals(head_dim, 3);
    const float special[] = {0.0f,     -0.0f, 0x1.002p+0f, 0x1.006p+0f, 65504.0f,
                             65520.0f, 1e9f,  0x1p-24f,    0x1.8p-25f,  -3e-6f};
    for (std::size_t i = 0; i < std::min(x.size(), std::size(special)); ++i) x[i] = special[i];
    const auto stored = [&] {
      std::vector<std::byte> out(static_cast<std::size_t>(padded_head(head_dim)) * 2);
      store_cache(x.data(), head_dim, CacheType::kFp16, out.data());
      return out;
    };
    EXPECT_EQ(stored(), reference(stored)) << head_dim;
  }
}

TEST_P(Decode, AttentionIsTheSoftmaxOverAllPositions) {
  for (const CacheType type : {CacheType::kFp32, CacheType::kFp16}) {
    for (const std::int64_t head_dim : {2, 16, 24, 64, 80, 128}) {
      for (const std::int64_t positions : {1, 3, 16, 100}) {
        Cache cache(positions, head_dim, type);
        const auto query = normals(head_dim, 3, 2);
        Guarded<float> out(cache.width), scores(attend_scratch(1, positions));
        std::fill_n(out.data(), cache.width, 0.0f);
        std::copy(query.begin(), query.end(), out.data());
        attend({.query = out.data(),
                .keys = cache.keys.data(),
                .values = cache.values.data(),
                .type = type,
                .positions = positions,
                .head_dim = head_dim,
                .scores = scores.data()});

        std::vector<double> weight, mixed(static_cast<std::size_t>(head_dim));
        double sum = 0;
        for (std::int64_t p = 0; p < positions; ++p) {
          const auto key = normals(head_dim, 10 + p);
          double score = 0;
          for (std::int64_t e = 0; e < head_dim; ++e) score += double{query[e]} * key[e];
          weight.push_back(std::exp(score / std::sqrt(static_cast<double>(head_dim))));
          sum += weight.back();
        }
        for (std::int64_t p = 0; p < positions; ++p) {
          const auto value = normals(head_dim, 5000 + p);
          for (std::int64_t e = 0; e < head_dim; ++e) mixed[e] += weight[p] / sum * value[e];
        }
        // fp16 keeps 11 bits of keys and values.
        const double tolerance = type == CacheType::kFp32 ? 5e-6 : 1e-2;
        for (std::int64_t e = 0; e < head_dim; ++e) {
          EXPECT_NEAR(out.data()[e], mixed[e], tolerance) << head_dim << ", " << positions;
        }
        for (std::int64_t e = head_dim; e < cache.width; ++e) EXPECT_EQ(out.data()[e], 0);
      }
    }
  }
}

TEST_P(Decode, AttentionOfLargeScoresStaysFinite) {
  Cache cache(5, 16, CacheType::kFp32);
  auto query = normals(16, 3, 1e4);
  std::vector<float> scores(static_cast<std::size_t>(attend_scratch(1, 5)));
  attend({.query = query.data(),
          .keys = cache.keys.data(),
          .values = cache.values.data(),
          .positions = 5,
          .head_dim = 16,
          .scores = scores.data()});
  for (const float v : query) EXPECT_TRUE(std::isfinite(v));
}

/// Also with heads too wide for the registers, and what the last queries see is not what the first
/// ones may.
TEST_P(Decode, QueriesTogetherHaveTheBitsOfSingleOnes) {
  for (const CacheType type : {CacheType::kFp32, CacheType::kFp16}) {
    for (const std::int64_t head_dim : {16, 24, 128, 272}) {
      for (const std::int64_t queries : {2, 4, 7, 9}) {
        constexpr std::int64_t kBefore = 254;  // a block begins within the first group
        Cache cache(kBefore + queries, head_dim, type);
        const std::int64_t stride = cache.width + 5;
        const auto start = normals(queries * stride, 3);
        const auto attend_to = [&](std::vector<float>& x, std::int64_t first, std::int64_t count) {
          Guarded<float> scores(attend_scratch(count, kBefore + first + 1));
          attend({.query = x.data() + first * stride,
                  .query_stride = stride,
                  .keys = cache.keys.data(),
                  .values = cache.values.data(),
                  .type = type,
                  .queries = count,
                  .positions = kBefore + first + 1,
                  .head_dim = head_dim,
                  .scores = scores.data()});
        };
        auto together = start, alone = start;
        attend_to(together, 0, queries);
        for (std::int64_t n = 0; n < queries; ++n) attend_to(alone, n, 1);
        EXPECT_EQ(bits_of(together), bits_of(alone)) << head_dim << ", " << queries << " queries";
      }
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
