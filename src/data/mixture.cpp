#include "fbi/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "fbi/core/error.h"

namespace fbi::data {
namespace {

constexpr std::int64_t kLongestPeriod = 1 << 16;
/// Far above what doubles err here, far below what rounding to the longest period changes.
constexpr double kWhole = 1e-6;

/// Samples of each corpus in a period, as the weights say; seldom whole numbers. Divisions only: no
/// processor fuses them with what comes next, so that all agree to the bit.
class Quotas {
 public:
  Quotas(std::span<const double> weights, std::int64_t period)
      : weights_(weights),
        sum_(std::accumulate(weights.begin(), weights.end(), 0.0)),
        share_of_sample_(1 / static_cast<double>(period)) {}
  double operator[](std::size_t corpus) const { return weights_[corpus] / sum_ / share_of_sample_; }

 private:
  std::span<const double> weights_;
  double sum_, share_of_sample_;
};

/// The quotas if all of them are whole, else nothing.
std::vector<std::int64_t> whole_samples(std::span<const double> weights, std::int64_t period) {
  const Quotas quotas(weights, period);
  std::vector<std::int64_t> samples;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    samples.push_back(std::llround(quotas[k]));
    if (samples[k] == 0 || std::abs(quotas[k] - std::round(quotas[k])) > kWhole) return {};
  }
  return samples;
}

/// Quotas rounded down; what is missing goes to the largest remainders.
std::vector<std::int64_t> rounded_samples(std::span<const double> weights, std::int64_t period) {
  const Quotas quotas(weights, period);
  std::vector<std::int64_t> samples;
  for (std::size_t k = 0; k < weights.size(); ++k)
    samples.push_back(static_cast<std::int64_t>(quotas[k]));
  std::vector<std::size_t> by_remainder(weights.size());
  std::iota(by_remainder.begin(), by_remainder.end(), std::size_t{0});
  std::ranges::stable_sort(by_remainder, std::ranges::greater(), [&](std::size_t k) {
    return quotas[k] - static_cast<double>(samples[k]);
  });
  const auto missing = period - std::accumulate(samples.begin(), samples.end(), std::int64_t{0});
  for (std::int64_t k = 0; k < missing; ++k) ++samples[by_remainder[k]];
  return samples;
}

/// Samples of each corpus in the period, whose length is their sum.
std::vector<std::int64_t> samples_per_period(std::span<const double> weights) {
  for (auto period = std::ssize(weights); period <= kLongestPeriod; ++period) {
    auto samples = whole_samples(weights, period);
    if (!samples.empty()) return samples;
  }
  auto samples = rounded_samples(weights, kLongestPeriod);
  const auto none = std::ranges::find(samples, 0) - samples.begin();
  if (none == std::ssize(samples)) return samples;
  throw UsageError(concat("data.weights[", none, "] = ", weights[none],
                          ": expected a share of at least one in ", kLongestPeriod,
                          " samples, found ", Quotas(weights, 1)[none],
                          "; raise it, or take the entry out of data.paths and data.weights"));
}

}  // namespace

Mixture::Mixture(std::span<const double> weights) : samples_(samples_per_period(weights)) {
  const auto period = std::accumulate(samples_.begin(), samples_.end(), std::int64_t{0});
  std::vector<std::int64_t> taken(samples_.size());
  // Earliest deadline first. Sample n of a corpus may come once k · share passes n, and must have
  // come before it passes n + 1; as shares add up to 1, no deadline is missed (Baruah et al.,
  // Proportionate Progress, Algorithmica 1996).
  for (std::int64_t k = 0; k < period; ++k) {
    std::int64_t next = -1;
    for (std::int64_t corpus = 0; corpus < std::ssize(samples_); ++corpus) {
      if (taken[corpus] * period >= (k + 1) * samples_[corpus]) continue;
      if (next < 0 || (taken[corpus] + 1) * samples_[next] < (taken[next] + 1) * samples_[corpus])
        next = corpus;
    }
    slots_.push_back({static_cast<std::int32_t>(next), static_cast<std::int32_t>(taken[next]++)});
  }
}

Mixture::Place Mixture::at(std::int64_t position) const {
  if (position < 0) throw UsageError(concat("expected a position of at least 0, found ", position));
  const Slot& slot = slots_[position % period()];
  return {slot.corpus, position / period() * samples_[slot.corpus] + slot.before};
}

double Mixture::share(std::int64_t corpus) const {
  return static_cast<double>(samples_[corpus]) / static_cast<double>(period());
}

}  // namespace fbi::data
