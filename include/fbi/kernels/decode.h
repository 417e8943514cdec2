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

/// One query over the positions of one head: out = softmax(q·Kᵀ / sqrt(head_dim)) V.
struct AttendArgs {
  const float* query = nullptr;       ///< [padded_head]
  const std::byte* keys = nullptr;    ///< [positions, padded_head]
  const std::byte* values = nullptr;  ///< the same
  CacheType type = CacheType::kFp32;
  std::int64_t positions = 0;  ///< > 0
  std::int64_t head_dim = 0;
  float* scores = nullptr;  ///< scratch [positions]
  float* out = nullptr;     ///< [padded_head]; may be the query's place
};
void attend(const AttendArgs& args);

}  // namespace fbi::kernels
