#include "fbi/kernels/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {
namespace {

/// Attention over one head by blocks of positions, whose keys or values stay in the first-level
/// cache while all queries pass; as many as possible in groups.
class HeadAttention {
 public:
  explicit HeadAttention(const AttendArgs& args)
      : args_(args),
        kernels_(gemv_kernels()),
        half_(args.type == CacheType::kFp16),
        cache_(half_ ? kernels_.fp16_cache : kernels_.fp32_cache),
        width_(padded_head(args.head_dim)),
        grouped_(cache_.score_queries ? args.queries / kTokenGroup * kTokenGroup : 0) {}

  void run() {
    for_blocks([this](std::int64_t n, std::int64_t begin) { score(n, begin); });
    for (std::int64_t n = 0; n < args_.queries; ++n) weigh(n);
    for_blocks([this](std::int64_t n, std::int64_t begin) { mix(n, begin); });
    for (std::int64_t n = 0; n < args_.queries; ++n) {
      mix_rest(n);
      for (std::int64_t e = 0; e < width_; ++e) query(n)[e] *= scores(n)[seen(n)];
    }
  }

 private:
  static constexpr std::int64_t kBlock = 32;

  std::int64_t seen(std::int64_t n) const { return args_.positions + n; }
  /// The first query of n's group, or n.
  std::int64_t first_of_group(std::int64_t n) const {
    return n < grouped_ ? n / kTokenGroup * kTokenGroup : n;
  }
  float* query(std::int64_t n) const { return args_.query + n * args_.query_stride; }
  /// Of the positions that a query sees, and behind them the inverse of their sum.
  float* scores(std::int64_t n) const { return args_.scores + n * scores_stride(); }
  std::int64_t scores_stride() const { return args_.positions + args_.queries; }
  const std::byte* row(const std::byte* rows, std::int64_t position) const {
    return rows + position * width_ * size_of(args_.type);
  }

  /// body(n, begin of a block) for the first query of every group and those that have none.
  template <class Body>
  void for_blocks(const Body& body) const {
    for (std::int64_t begin = 0; begin < seen(args_.queries - 1); begin += kBlock) {
      for (std::int64_t n = 0; n < args_.queries; n += n < grouped_ ? kTokenGroup : 1) {
        body(n, begin);
      }
    }
  }

  void score(std::int64_t n, std::int64_t begin) const {
    const bool group = n < grouped_;
    const std::int64_t count = std::min(kBlock, seen(group ? n + kTokenGroup - 1 : n) - begin);
    if (count <= 0) return;
    const std::byte* keys = row(args_.keys, begin);
    if (group) {
      cache_.score_queries(query(n), args_.query_stride, keys, count, width_, scores(n) + begin,
                           scores_stride());
    } else {
      const DenseProduct& product = half_ ? kernels_.fp16 : kernels_.fp32;
      product.rows(keys, width_ * size_of(args_.type), width_, query(n), count, scores(n) + begin);
    }
  }

  void weigh(std::int64_t n) const {
    const CpuKernels& cpu = cpu_kernels();
    const float factor = 1 / std::sqrt(static_cast<float>(args_.head_dim));
    const float largest = cpu.max(scores(n), seen(n));
    scores(n)[seen(n)] = static_cast<float>(1 / cpu.exp_row(scores(n), seen(n), largest, factor));
  }

  /// The positions that all of a group see.
  void mix(std::int64_t n, std::int64_t begin) const {
    const std::int64_t count = std::min(kBlock, seen(n) - begin);
    if (count <= 0) return;
    const std::byte* values = row(args_.values, begin);
    if (n < grouped_) {
      cache_.mix_queries(scores(n) + begin, scores_stride(), values, count, width_, begin > 0,
                         query(n), args_.query_stride);
    } else {
      cache_.mix(scores(n) + begin, values, count, width_, begin > 0, query(n));
    }
  }
  void mix_rest(std::int64_t n) const {
    const std::int64_t begin = seen(first_of_group(n));
    cache_.mix(scores(n) + begin, row(args_.values, begin), seen(n) - begin, width_, true,
               query(n));
  }

  const AttendArgs& args_;
  const GemvKernels& kernels_;
  bool half_;
  const CacheKernels& cache_;
  std::int64_t width_, grouped_;
};

}  // namespace

void rms_norm(const float* x, const float* weight, std::int64_t count, double eps, float* out) {
  const double mean = cpu_kernels().sum_of_squares(x, count) / static_cast<double>(count);
  cpu_kernels().scaled_product(x, static_cast<float>(1 / std::sqrt(mean + eps)), weight, count,
                               out);
}

void silu_product(float* gate, const float* up, std::int64_t count) {
  cpu_kernels().silu_product(gate, up, count, gate);
}

std::int64_t size_of(CacheType type) {
  return type == CacheType::kFp32 ? 4 : 2;
}

std::int64_t padded_head(std::int64_t head_dim) {
  return (head_dim + kPadding - 1) / kPadding * kPadding;
}

void store_cache(const float* x, std::int64_t head_dim, CacheType type, std::byte* out) {
  const std::int64_t padding = padded_head(head_dim) - head_dim;
  std::memset(out + head_dim * size_of(type), 0, padding * size_of(type));
  if (type == CacheType::kFp32) {
    std::memcpy(out, x, head_dim * sizeof *x);
    return;
  }
  gemv_kernels().to_half(x, head_dim, reinterpret_cast<std::uint16_t*>(out));
}

std::int64_t attend_scratch(std::int64_t queries, std::int64_t positions) {
  return queries * (positions + queries);
}

void attend(const AttendArgs& args) {
  HeadAttention(args).run();
}

}  // namespace fbi::kernels
