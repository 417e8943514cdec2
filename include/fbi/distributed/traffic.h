#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fbi::distributed {

/// What a collective carries, for the account of bytes sent.
enum class Payload { kGradients, kBits, kValues, kScales, kTeacher, kControl };
inline constexpr std::size_t kPayloads = 6;
/// "gradients", "bits", "values", "scales", "teacher", "control".
std::string_view to_string(Payload payload);

/// All of them, in order.
inline constexpr std::array<Payload, kPayloads> kAllPayloads = {
    Payload::kGradients, Payload::kBits,    Payload::kValues,
    Payload::kScales,    Payload::kTeacher, Payload::kControl};

/// Bytes that this rank sent, by payload, counted as a ring of N ranks sends them: (N-1)/N of the
/// whole for reduce_scatter and all_gather, twice that for all_reduce.
using Traffic = std::array<std::int64_t, kPayloads>;

}  // namespace fbi::distributed
