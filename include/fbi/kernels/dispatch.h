#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Which implementation the kernels of this process use. By default the first row of the table that
/// can run here; the environment variable FBI_KERNEL (a row's name) chooses another one and is read
/// at the first kernel call.
namespace fbi::kernels {

enum class Level { kRef, kPortable, kNeon, kAvx2, kAvx512 };

/// ref | portable | neon | avx2 | avx512
std::string_view level_name(Level level);

struct DispatchRow {
  Level level;
  std::string needs;     ///< what it needs, e.g. "avx2 fma popcnt"
  std::string declined;  ///< why it can't run here; empty when it can
  bool available() const { return declined.empty(); }
};

/// The table, best first.
std::vector<DispatchRow> dispatch_rows();

/// Throws UsageError naming the choices when FBI_KERNEL is unknown or can't run here.
Level chosen_level();

/// Overrides FBI_KERNEL for this process (tests, benchmarks); nullopt returns to it and reads it
/// again. Not while kernels run. Throws UsageError like chosen_level.
void force_level(std::optional<Level> level);

}  // namespace fbi::kernels
