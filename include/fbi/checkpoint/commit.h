#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include <ATen/core/Tensor.h>

#include "fbi/distributed/communicator.h"
#include "fbi/formats/checkpoint_reader.h"

/// How tensors lie in a checkpoint. Each rank writes the rows it owns into safetensors files of its
/// own, `shard-r<rank>-<number>.safetensors`, named as fbi/formats/sharded_tensors.h says.
namespace fbi::checkpoint {

/// This rank's rows of one tensor.
struct TensorPart {
  std::string name;  ///< without '@'
  at::Tensor rows;   ///< [end - begin, ...], possibly no rows; CPU or CUDA
  std::int64_t row_begin = 0;
  /// Rows of the whole tensor, when ranks hold different rows. -1: `rows` is the whole tensor, of
  /// any shape, and equal on all ranks; rank 0 writes it.
  std::int64_t total_rows = -1;
};

struct CommitOptions {
  std::uint64_t max_shard_bytes = 4'000'000'000;  ///< a larger tensor gets a file of its own
  std::int64_t keep = 3;                          ///< valid checkpoints, at least 2
  std::int64_t keep_every = 0;  ///< those of every so many steps stay besides; 0: none
};

/// Writes a checkpoint so that a kill or power cut at any moment leaves it whole or absent: files
/// and then the manifest go, each fsynced, to a temporary folder, which is renamed to
/// `<checkpoints>/step-%08d`; only then retention deletes old ones. `manifest` brings step,
/// config_hash and state_json; shards are filled in. A folder of that step is replaced,
/// with a warning. All ranks call this and get the result together: an error on one
/// is an error on all (DiskError for a full disk: the temporary folder is gone, earlier checkpoints
/// are untouched). Returns the folder.
std::filesystem::path commit_checkpoint(distributed::Communicator& communicator,
                                        const std::filesystem::path& checkpoints,
                                        formats::CheckpointManifest manifest,
                                        std::span<const TensorPart> parts,
                                        const CommitOptions& options = {});

}  // namespace fbi::checkpoint
