#pragma once

#include <cstddef>
#include <cstdint>

/// What a decode step needs besides products (gemv.h): norm, gate and attention of one token,
/// serial, fp32. No result depends on anything but its own arguments.
namespace fbi::kernels {

/// out[i] = x[i] · weight[i] / sqrt(mean(x²) + eps)
void rms_norm(const float* x, const float* weight, std::int64_t count, double eps, float* out);

/// gate[i] = silu(gate[i]) · up[i] with silu(g) = g / (1 + exp(-g))
void silu_product(float* gate, const float* up, std::int64_t count);

/// How a dense matrix lies in memory; products are in fp32.
enum class Storage {
  kFp32,
  kFp16,
  kInt8,  ///< one scale per row, the largest magnitude / 127
};

/// Element of a key-value cache.
enum class CacheType { kFp32, kFp16 };
std::int64_t size_of(CacheType type);

/// Values per head that a cache keeps: the head's size rounded up; what is beyond is 0.
std::int64_t padded_head(std::int64_t head_dim);

/// Writes one head's key or value [head_dim], rounded to nearest even, and its padding.
void store_cache(const float* x, std::int64_t head_dim, CacheType type, std::byte* out);

/// Queries of consecutive tokens over one head: q <- softmax(q·Kᵀ / sqrt(head_dim)) V. Each has the
/// bits that it has alone.
struct AttendArgs {
  float* query = nullptr;             ///< [padded_head], and at its end the result
  std::int64_t query_stride = 0;      ///< from one token's to the next one's
  const std::byte* keys = nullptr;    ///< [positions + queries - 1, padded_head]
  const std::byte* values = nullptr;  ///< the same
  CacheType type = CacheType::kFp32;
  std::int64_t queries = 1;
  std::int64_t positions = 0;  ///< that the first query sees, > 0; each sees one more
  std::int64_t head_dim = 0;
  float* scores = nullptr;  ///< scratch [attend_scratch(queries, positions)]
};
/// Floats, for so many queries of which the first one sees `positions`.
std::int64_t attend_scratch(std::int64_t queries, std::int64_t positions);
void attend(const AttendArgs& args);

}  // namespace fbi::kernels
