#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fbi::data {

/// From which corpus each sample of a run comes, as a pure function of its position. Corpora take
/// turns in a fixed order of period() samples, again and again: among the first k samples of a run,
/// those of a corpus are less than one off k · share.
class Mixture {
 public:
  /// The period is the smallest one, of at most 2^16 samples, in which shares weight / sum are
  /// whole samples; where there is none, it is 2^16, and shares are rounded to its samples.
  /// UsageError for a share that is rounded to none. Weights are finite and above 0.
  explicit Mixture(std::span<const double> weights);

  struct Place {
    std::int64_t corpus = 0;
    std::int64_t position = 0;  ///< among the samples of that corpus
    bool operator==(const Place&) const = default;
  };
  Place at(std::int64_t position) const;

  std::int64_t period() const { return static_cast<std::int64_t>(slots_.size()); }
  /// Samples of a corpus in a period.
  std::int64_t samples(std::int64_t corpus) const { return samples_[corpus]; }
  /// samples(corpus) / period().
  double share(std::int64_t corpus) const;

 private:
  struct Slot {
    std::int32_t corpus;
    std::int32_t before;  ///< samples of that corpus before it in the period
  };

  std::vector<std::int64_t> samples_;
  std::vector<Slot> slots_;
};

}  // namespace fbi::data
