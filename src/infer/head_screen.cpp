#include "infer/head_screen.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <mutex>

namespace fbi::infer {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

double norm_of(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

/// Norms of a row, of its copy, and of what lies between.
struct Norms {
  double row, copy, difference;
};
Norms norms_of(std::span<const float> row, const std::int8_t* copy, float scale) {
  double squares = 0, copied = 0, difference = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double w = row[i], q = copy[i], d = w - scale * q;
    squares += w * w;
    copied += q * q;
    difference += d * d;
  }
  return {std::sqrt(squares), scale * std::sqrt(copied), std::sqrt(difference)};
}

}  // namespace

HeadScreen::HeadScreen(const ModelParts& parts, const std::string& name,
                       const kernels::DenseLinear& head, ParallelFor& parallel)
    : copy_(dense_weights(parts, name, kernels::Storage::kInt8, parallel)),
      error_(static_cast<std::size_t>(head.shape().rows)) {
  const auto columns = static_cast<std::size_t>(head.shape().columns);
  // Half a unit in the last place of fp16, in its subnormal range of 2^-25.
  const bool rounded = head.storage() == kernels::Storage::kFp16 && !parts.is_half(name);
  const double n = static_cast<double>(copy_.padded_columns());
  std::mutex mutex;
  parallel.run(0, head.shape().rows, kGroup, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(columns);
    double largest = 0;
    for (std::int64_t o = begin; o < end; ++o) {
      parts.row(name, o, row);
      const auto* copy = reinterpret_cast<const std::int8_t*>(copy_.values().data() +
                                                              o * copy_.row_stride_bytes());
      const Norms norms = norms_of(row, copy, copy_.row_scales()[static_cast<std::size_t>(o)]);
      double error = norms.difference;
      if (rounded) error += 0x1p-11 * norms.row + 0x1p-25 * std::sqrt(n);
      constexpr double kLargestHalf = 65504;
      if (rounded && norms.row > kLargestHalf) largest = std::numeric_limits<double>::infinity();
      // The copy's product takes x rounded to 16 bits: each value is off by half a step, and one
      // step is |x| / 32767 at most. A fiftieth more for roundings of steps.
      error += 0.51 / 32767 * std::sqrt(n) * norms.copy;
      // A sum of n products in fp32, in any order, is off by at most n 2^-24 / (1 - n 2^-24) times
      // the sum of their magnitudes (Higham 2002, §3.1), which |w| |x| bounds; the copy's is exact
      // and rounded three times. A tenth more for what follows in fp32 itself.
      error += 1.1 * (n + 3) * 0x1p-24 * (norms.row + norms.copy);
      error_[static_cast<std::size_t>(o)] = static_cast<float>(error * (1 + 1e-6));
      largest = std::max(largest, norms.row);
    }
    const std::lock_guard lock(mutex);
    largest_norm_ = std::max(largest_norm_, largest);
  });
}

void HeadScreen::begin(const float* x, const eval::Drawable& wanted, Search& search) const {
  const auto rows = static_cast<std::size_t>(copy_.shape().rows);
  const double norm = norm_of({x, static_cast<std::size_t>(copy_.padded_columns())});
  search.wanted = wanted;
  search.wanted.ids = std::min(wanted.ids, copy_.shape().rows);
  // Kernels may add multiples of what they give.
  constexpr double kMost = std::numeric_limits<float>::max() / 0x1p32;
  constexpr double kLeast = 1e-20;  // the copy's product takes much smaller values for 0
  const bool known = norm * largest_norm_ < kMost && (norm == 0 || norm > kLeast);
  search.norm = known ? static_cast<float>(norm * (1 + 1e-6)) : kNone;
  copy_.round(x, search.input);
  search.estimates.resize(rows);
  search.low.resize(static_cast<std::size_t>(groups(copy_.shape().rows)));
  search.high.resize(search.low.size());
  search.candidates.clear();
  search.candidates.reserve(rows / kTooMany);
}

void HeadScreen::estimate(std::int64_t piece, Search& search) const {
  const std::int64_t first = piece * kPiece;
  const std::int64_t end = std::min(first + kPiece, search.wanted.ids);
  if (first >= end) return;
  copy_.multiply(first, end, search.input, search.estimates.data());
  for (std::int64_t begin = first; begin < end; begin += kGroup) {
    const auto [low, high] = bounds(begin, std::min(begin + kGroup, end), search);
    search.low[static_cast<std::size_t>(begin / kGroup)] = low;
    search.high[static_cast<std::size_t>(begin / kGroup)] = high;
  }
}

/// Of the highest logit in [begin, end).
std::pair<float, float> HeadScreen::bounds(std::int64_t begin, std::int64_t end,
                                           const Search& search) const {
  constexpr std::int64_t kLanes = 16;  // several at once, which the compiler turns into vectors
  float low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, -std::numeric_limits<float>::infinity());
  std::fill_n(high, kLanes, -std::numeric_limits<float>::infinity());
  const float norm = search.norm;
  const auto look_at = [&](std::int64_t row, std::int64_t lane) {
    const float logit = search.estimates[static_cast<std::size_t>(row)];
    const float bound = error_[static_cast<std::size_t>(row)] * norm;
    low[lane] = logit - bound > low[lane] ? logit - bound : low[lane];
    high[lane] = logit + bound > high[lane] ? logit + bound : high[lane];
  };
  std::int64_t row = begin;
  for (; row + kLanes <= end; row += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) look_at(row + lane, lane);
  }
  for (; row < end; ++row) look_at(row, 0);
  return {*std::max_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

void HeadScreen::find(Search& search) const {
  const auto& [ids, highest, within] = search.wanted;
  const std::int64_t count = groups(ids);
  search.found = false;
  if (std::isnan(search.norm)) return;
  // As many groups have a logit that is at least as high as that.
  float* const low = search.low.data();
  std::nth_element(low, low + highest - 1, low + count, std::greater<>());
  const double least = low[highest - 1] - within;
  constexpr double kLowest = std::numeric_limits<float>::lowest();
  const auto threshold = static_cast<float>(std::max(least - 1e-6 * std::abs(least), kLowest));
  for (std::int64_t group = 0; group < count; ++group) {
    if (search.high[static_cast<std::size_t>(group)] < threshold) continue;
    for (std::int64_t o = group * kGroup; o < std::min((group + 1) * kGroup, ids); ++o) {
      const auto at = static_cast<std::size_t>(o);
      if (search.estimates[at] + error_[at] * search.norm < threshold) continue;
      if (search.candidates.size() == search.candidates.capacity()) {
        search.candidates.clear();
        return;
      }
      search.candidates.push_back(static_cast<std::int32_t>(o));
    }
  }
  search.found = true;
}

}  // namespace fbi::infer
