#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "fbi/formats/safetensors.h"

namespace fbi::formats {

inline constexpr int kCheckpointFormatVersion = 1;

/// One file of a checkpoint as its manifest lists it.
struct CheckpointShard {
  std::string file;
  std::uint64_t bytes = 0;
  std::string xxh3_128;
};

/// What `manifest.json` of a checkpoint folder says (design §7). `state` is the trainer's part, uninterpreted here.
struct CheckpointManifest {
  int format_version = kCheckpointFormatVersion;
  std::int64_t step = 0;
  std::string config_hash;
  std::vector<CheckpointShard> shards;
  std::string state_json;  ///< {"updates":…, "tokens":…, "position":…, …}
};

std::string manifest_to_json(const CheckpointManifest& manifest);
/// Throws CheckpointError naming the file and the field.
CheckpointManifest manifest_from_file(const std::filesystem::path& path);

/// Read-only view of one committed checkpoint folder (`step-00001234`). The constructor checks manifest, presence and size of
/// every shard, and, with `verify_hash`, its XXH3; throws CheckpointError naming the file and what differs.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::filesystem::path& directory, bool verify_hash = true);
  const CheckpointManifest& manifest() const { return manifest_; }
  const std::filesystem::path& path() const { return directory_; }
  const TensorView* find(const std::string& name) const;
  const TensorView& at(const std::string& name) const;  ///< CheckpointError when absent
  std::vector<std::string> names() const;

 private:
  std::filesystem::path directory_;
  CheckpointManifest manifest_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

/// Committed checkpoint folders below `checkpoints`, newest step first, by name only (nothing is opened).
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& checkpoints);

/// Opens the newest checkpoint that passes validation; each one that fails is reported through log::warn with its
/// reason. nullptr when there is none at all; CheckpointError when there are some and none is valid.
std::unique_ptr<CheckpointReader> open_newest_checkpoint(const std::filesystem::path& checkpoints);

}  // namespace fbi::formats
