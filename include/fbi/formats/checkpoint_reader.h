#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fbi/formats/checksums.h"
#include "fbi/formats/safetensors.h"

namespace fbi::formats {

/// 2: tensors may lie in parts (sharded_tensors.h). 1, in which all are whole, is read too.
inline constexpr int kCheckpointFormatVersion = 2;

/// What `manifest.json` of a checkpoint folder says (docs/formats.md, "Checkpoint"). `state` is the
/// trainer's part, uninterpreted here.
struct CheckpointManifest {
  int format_version = kCheckpointFormatVersion;
  std::int64_t step = 0;
  std::string config_hash;
  std::vector<FileChecksum> shards;
  std::string state_json = "{}";  ///< {"updates":…, "tokens":…, "position":…, …}
};

/// The text of manifest.json. It ends in a hash of its own content, so that any later change is
/// noticed. UsageError when state_json is not a JSON object.
std::string manifest_to_json(const CheckpointManifest& manifest);
/// Throws CheckpointError naming the file and the field.
CheckpointManifest manifest_from_file(const std::filesystem::path& path);

/// Read-only view of one committed checkpoint folder (`step-00001234`), its tensors and parts of
/// tensors as they are stored; ShardedTensors puts parts together. The constructor checks manifest,
/// presence and size of every shard, and, with `verify_hash`, its XXH3; throws CheckpointError
/// naming the file and what differs.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::filesystem::path& directory, bool verify_hash = true);
  /// Compares the XXH3 of every `parts`-th shard from shard `part` on: several readers share what
  /// takes minutes. Throws as the constructor does.
  void check_bytes(std::size_t part, std::size_t parts) const;
  const CheckpointManifest& manifest() const { return manifest_; }
  const std::filesystem::path& path() const { return directory_; }
  /// By name.
  const std::map<std::string, const TensorView*>& tensors() const { return tensors_; }

 private:
  std::filesystem::path directory_;
  CheckpointManifest manifest_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorView*> tensors_;
};

/// `step-00001234`: the folder of a committed checkpoint.
std::string checkpoint_folder_name(std::int64_t step);
/// 1234 for a folder of that name, nullopt for names that only look similar.
std::optional<std::int64_t> checkpoint_step(const std::filesystem::path& folder);

/// Committed checkpoint folders below `checkpoints`, newest step first, by name only (nothing is
/// opened).
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& checkpoints);

using OpenCheckpoint =
    std::function<std::unique_ptr<CheckpointReader>(const std::filesystem::path& folder)>;

/// The first of `folders` that `open` opens; each one for which it throws CheckpointError is
/// reported through log::warn with the reason. nullptr when there are no folders; CheckpointError
/// when none is valid, of a single one its own.
std::unique_ptr<CheckpointReader> open_first_valid(
    const std::vector<std::filesystem::path>& folders, const OpenCheckpoint& open);

/// The checkpoint that `path` is, or those of the run directory that it is, newest first; none when
/// it is neither. Nothing is opened. CheckpointError when the run has none yet.
std::vector<std::filesystem::path> checkpoints_of(const std::filesystem::path& path);

/// The first valid one of checkpoints_of, every byte of it compared; nullptr when there is none.
/// CheckpointError when none is usable, or the run has none yet.
std::unique_ptr<CheckpointReader> open_checkpoint_of(const std::filesystem::path& path);

}  // namespace fbi::formats
