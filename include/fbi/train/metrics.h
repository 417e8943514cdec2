#pragma once

#include <filesystem>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/train/memory_use.h"
#include "fbi/train/step_metrics.h"
#include "fbi/train/timeline.h"

namespace fbi::train {

/// How fast the run is going, by the clock, and what it takes; never part of the arithmetic.
/// Operations are those of estimate::TokenFlops, of this rank's tokens.
struct Pace {
  double step_seconds = 0;       ///< duration of this step
  double cpu_seconds = 0;        ///< processor time of this process in it, all threads
  double tokens_per_second = 0;  ///< over the last steps
  double eta_seconds = 0;        ///< to the last step of the run, with pauses as so far
  PhaseSeconds phases;          ///< of kStepPhases; kOther is what the others leave of step_seconds
  double flops_per_second = 0;  ///< of student and teacher, in this step
  double recompute_flops_per_second = 0;
  /// MFU against what was measured: the time that the operations of flops_per_second would take at
  /// the measured rates of matrix products in their types, over step_seconds. 0: not measured.
  double matrix_share = 0;
  MemoryUse memory;
};

/// One line of metrics.jsonl: JSON with numbers that round-trip. Losses that the objective does not
/// use are null, as are non-finite numbers. docs/formats.md lists the keys.
std::string metrics_line(const StepMetrics& metrics, const config::ObjectiveConfig& objective,
                         const Pace& pace);

/// "2.9 TFLOP/s"
std::string flops_text(double per_second);

/// Appends lines to metrics.jsonl, the truth about a run. While the disk is full lines wait in
/// memory (logged once) and are written with the next ones.
class MetricsFile {
 public:
  explicit MetricsFile(const std::filesystem::path& path);  ///< DiskError when it can't be opened
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void append(const std::string& line);
  /// Everything on disk, before a checkpoint is committed: a checkpoint never is ahead of its
  /// metrics. Throws DiskError.
  void sync();

 private:
  bool write_pending();  ///< false with errno set

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::string pending_;
  bool failing_ = false;
};

}  // namespace fbi::train
