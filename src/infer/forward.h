#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "fbi/infer/packed_model.h"
#include "infer/model_parts.h"
#include "infer/team.h"

namespace fbi::infer {

/// Keys and values of one sequence, where its Forward has them.
class SequenceCache {
 public:
  virtual ~SequenceCache() = default;
  /// Makes room for that many positions; what is stored stays.
  virtual void reserve(std::int64_t positions) = 0;
  /// Stores the first `positions`, which are reserved, of another one of the same Forward.
  virtual void copy(const SequenceCache& other, std::int64_t positions) = 0;
  virtual std::uint64_t bytes() const = 0;           ///< of memory that is reserved
  virtual std::uint64_t position_bytes() const = 0;  ///< that one position takes
  /// A copy of the first `positions`, which has no room for more.
  virtual std::unique_ptr<SequenceCache> trimmed(std::int64_t positions) const = 0;
};

/// One token to feed: its sequence's cache holds `position` tokens or more, of which the first
/// `position` are those before it.
struct TokenRow {
  std::int32_t id = 0;
  std::int64_t position = 0;
  SequenceCache* cache = nullptr;
};

/// The arithmetic of the model, on one device. Rows of one call may belong to one sequence (a
/// prompt) or to several; each gives the bits that it gives alone.
class Forward {
 public:
  /// Rows that are computed together, at most: twice as many as lie side by side in 8-bit products
  /// on the processor, so that two threads each have some by all rows of a matrix. More would make
  /// the other texts of a batch wait longer for a prompt's step.
  static constexpr std::int64_t kMaxRows = 64;

  struct Facts {
    std::string device;            ///< empty: the processor
    std::uint64_t sign_bytes = 0;  ///< signs as the kernels keep them
    std::uint64_t head_bytes = 0;
    kernels::Storage head = kernels::Storage::kFp32;
  };

  virtual ~Forward() = default;
  const Facts& facts() const { return facts_; }

  /// Of a text that will not have more than `most` positions; for more, no room is reserved ahead.
  /// From any thread; it needs no memory before it is reserved. The Forward lives longer.
  virtual std::unique_ptr<SequenceCache> new_cache(std::int64_t most) = 0;
  /// Stores keys and values and leaves the normed hidden states of the last rows inside; at most
  /// kMaxRows rows, caches reserved for their positions.
  virtual void run(std::span<const TokenRow> rows) = 0;
  /// logits [count, V] of the hidden states [first, first + count) of the last run.
  virtual void logits(std::int64_t first, std::int64_t count, float* out) = 0;
  /// The same of as many states as there are `drawable`; what does not count as drawable may be
  /// -infinity instead.
  virtual void logits_to_draw(std::int64_t first, std::span<const eval::Drawable> drawable,
                              float* out) {
    logits(first, std::ssize(drawable), out);
  }
  /// Of the head, that each state took in logits_to_draw on average.
  virtual double head_bytes_to_draw() const { return static_cast<double>(facts_.head_bytes); }
  /// Bytes per second at which the device reads a buffer of that size, the best of several passes.
  virtual double read_bandwidth(std::uint64_t bytes) = 0;

 protected:
  Facts facts_;
};

/// On the device that the options name. Throws UsageError where it is not there or lacks an option.
std::unique_ptr<Forward> make_forward(std::unique_ptr<ModelParts> parts,
                                      const PackedOptions& options, Team& team);

}  // namespace fbi::infer
