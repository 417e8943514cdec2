#pragma once

#include <cstddef>

namespace fbi::kernels {
namespace {

/// Asks memory for what is read later: the hardware's own prefetching does not run far enough ahead
/// of look-ups, nor beyond the ends of pages. One of several places that are read in turn need not
/// be asked for far ahead, and goes into the first-level cache at once. One place alone must be
/// where much is computed from a line; there it would evict tables (docs/benchmarks.md, one core).
template <int places>
inline void ask_ahead(const std::byte* bytes) {
  if constexpr (places > 1) {
    __builtin_prefetch(bytes + 2048, 0, 3);
  } else {
    __builtin_prefetch(bytes + 16384, 0, 2);
  }
}

}  // namespace
}  // namespace fbi::kernels
