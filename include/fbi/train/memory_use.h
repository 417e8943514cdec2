#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fbi/estimate/estimate.h"

namespace fbi::distill {
class Teacher;
}
namespace fbi::optim {
class AdamW;
}

namespace fbi::train {

/// Bytes of the tensors that a run holds all the time on this rank, by kind, each storage once:
/// what estimate::MemoryEstimate::constant says beforehand, but for the rotary frequencies.
/// `teacher` may be null.
estimate::MemoryByKind held_memory(const optim::AdamW& optimizer, const distill::Teacher* teacher);

/// What this rank's memory went to at most so far.
struct MemoryUse {
  std::int64_t peak_bytes = 0;         ///< peak_resident_bytes
  std::int64_t peak_device_bytes = 0;  ///< ops::peak_device_bytes; 0 on a CPU
  std::int64_t program_bytes = 0;      ///< resident before anything of the run was made
  estimate::MemoryByKind held{};       ///< held_memory

  std::int64_t peak() const { return peak_device_bytes > 0 ? peak_device_bytes : peak_bytes; }
  /// The peak, the device's where there is one, by name: what is held, on a CPU "program", and
  /// "rest", what they leave: activations, the loss's chunk, workspace, and whatever only loading
  /// needed. Kinds without memory are left out. Memory that no step has written to yet is held but
  /// not resident: then rest is 0, and the parts are more than the peak.
  std::vector<std::pair<std::string_view, std::int64_t>> parts() const;
  /// "memory at most 1.2 GB: latent 0.4 GB, ..., rest 0.1 GB"
  std::string text() const;
};

}  // namespace fbi::train
