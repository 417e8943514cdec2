#pragma once

#include <type_traits>
#include <utility>

namespace fbi::kernels {
namespace {

/// op(0) to op(n - 1), each number a constant, without a loop: only then does GCC keep an array
/// that is indexed by them in registers.
template <int n, class Op>
inline void unrolled(const Op& op) {
  [&op]<int... i>(std::integer_sequence<int, i...>) {
    (op(std::integral_constant<int, i>()), ...);
  }
  (std::make_integer_sequence<int, n>());
}

}  // namespace
}  // namespace fbi::kernels
