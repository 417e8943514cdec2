#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/exporter/fold.h"
#include "fbi/formats/model_source.h"
#include "fbi/text/tokenizer.h"

/// Model folders for others. An export is written to a temporary folder beside its target; the
/// caller looks at it there (reloads and compares) and then commits it, so a folder under the
/// target's name is always complete.
namespace fbi::exporter {

/// What the model card says besides the architecture; empty parts are left out.
struct ModelCard {
  std::string title;                 ///< default: the target folder's name
  std::string config_hash;           ///< of the run
  std::optional<std::int64_t> step;  ///< of the checkpoint
};

/// A tokenizer of a kind that this program does not read.
struct UnreadTokenizer {
  std::filesystem::path file;
  std::string why;
};

struct ExportProgress {
  std::int64_t tensors_done = 0;
  std::int64_t tensors_total = 0;
};

struct ExportOptions {
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< tensor bytes of one file
  const text::Tokenizer* tokenizer = nullptr;     ///< written beside the weights when given
  /// In place of `tokenizer`: the files in its folder are copied as they are. A GGUF export, which
  /// holds the pieces, is a UsageError.
  std::optional<UnreadTokenizer> unread_tokenizer;
  ModelCard card;
  std::function<void(const ExportProgress&)> on_progress;  ///< after each tensor
};

struct ExportReport {
  std::filesystem::path directory;  ///< the target
  std::vector<std::string> files;   ///< sorted
  std::uint64_t bytes = 0;          ///< of all files
  std::int64_t tensors = 0;
  std::int64_t weights = 0;           ///< parameters without scales and shifts
  double bits_per_weight = 0;         ///< 8 * tensor bytes / weights
  ZeroCounts zeros;                   ///< in latent weights
  std::string tokenizer_note;         ///< where its files are not those that one expects; mostly ""
  std::string note;                   ///< what else a user should know; mostly ""
  std::vector<std::string> warnings;  ///< what may be a mistake; mostly none
};

/// An export in its temporary folder; removed again unless committed.
class StagedExport {
 public:
  struct Impl;  ///< of the library
  explicit StagedExport(std::unique_ptr<Impl> impl);
  StagedExport(StagedExport&&) noexcept;
  StagedExport& operator=(StagedExport&&) noexcept;
  ~StagedExport();

  /// The temporary folder, complete; after commit the target.
  const std::filesystem::path& path() const;
  const ExportReport& report() const;
  /// Renames it to the target, durably. Throws DiskError; UsageError when another process has made
  /// the target meanwhile.
  ExportReport commit();

 private:
  std::unique_ptr<Impl> impl_;
};

/// Latent weights, scales and shifts in fp32 under the published names, config.json with
/// `binarize`, tokenizer: what training can go on from. Of a dense model simply its weights in
/// fp32. Throws UsageError (target exists and is not an empty folder, tokenizer of another model),
/// DataError (missing, unused or misshapen tensor, value that is not finite), DiskError.
StagedExport export_native(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const ExportOptions& options = {});

/// A stock Hugging Face LlamaForCausalLM folder: binarized matrices folded into dense ones,
/// everything else cast to folding.dtype. Throws as export_native does; DataError also when a value
/// does not fit the dtype.
StagedExport export_folded(const formats::ModelSource& source, const config::ModelConfig& model,
                           const std::filesystem::path& target, const Folding& folding = {},
                           const ExportOptions& options = {});

}  // namespace fbi::exporter
