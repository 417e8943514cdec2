#include "fbi/checkpoint/commit.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "checkpoint/dtype.h"
#include "checkpoint/retention.h"
#include "checkpoint/temporary.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/distributed/agreement.h"
#include "fbi/formats/sharded_tensors.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using formats::FileChecksum;
using nlohmann::json;

/// A new temporary folder.
fs::path prepare(const fs::path& checkpoints, std::int64_t step) {
  create_folder(checkpoints);
  const fs::path temporary = temporary_path(checkpoints, formats::checkpoint_folder_name(step));
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  create_folder(temporary);
  return temporary;
}

/// Name, dtype and shape under which a part goes into a file; the bytes are filled in once they are
/// on the host.
formats::TensorView describe(const TensorPart& part) {
  const auto dtype = to_file_dtype(part.rows.scalar_type());
  if (!dtype || part.name.find('@') != std::string::npos) {
    throw UsageError(concat("checkpoint: tensor \"", part.name, "\" of dtype ",
                            c10::toString(part.rows.scalar_type()), " can't be saved (",
                            dtype ? "its name has an @" : "no such dtype in safetensors", ")"));
  }
  formats::TensorView view{part.name, *dtype, part.rows.sizes().vec(), {}};
  if (part.total_rows < 0) return view;
  const std::int64_t rows = part.rows.dim() > 0 ? part.rows.size(0) : -1;
  if (rows < 0 || part.row_begin < 0 || part.row_begin > part.total_rows - rows) {
    throw UsageError(concat("checkpoint: tensor \"", part.name, "\": ", rows, " rows from row ",
                            part.row_begin, " on do not lie in its ", part.total_rows, " rows"));
  }
  if (rows != part.total_rows) {
    view.name = formats::to_string(
        formats::PartName{part.name, part.row_begin, part.row_begin + rows, part.total_rows});
  }
  return view;
}

bool is_written_by(int rank, const TensorPart& part) {
  if (part.total_rows < 0) return rank == 0;
  // `describe` refuses scalars.
  const bool has_rows = part.rows.dim() == 0 || part.rows.size(0) > 0;
  return has_rows || (part.total_rows == 0 && rank == 0);
}

/// What this rank has to write, cut into files of at most max_bytes where tensors allow.
std::vector<std::vector<const TensorPart*>> cut_into_files(std::span<const TensorPart> parts,
                                                           int rank, std::uint64_t max_bytes) {
  std::vector<std::vector<const TensorPart*>> files;
  std::uint64_t bytes = 0;
  for (const TensorPart& part : parts) {
    if (!is_written_by(rank, part)) continue;
    const std::uint64_t size = part.rows.nbytes();
    if (files.empty() || (bytes > 0 && bytes + size > max_bytes)) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(&part);
    bytes += size;
  }
  return files;
}

FileChecksum write_shard(const fs::path& folder, const std::string& file,
                         const std::vector<const TensorPart*>& parts) {
  std::vector<formats::TensorView> layout;
  for (const TensorPart* part : parts) layout.push_back(describe(*part));
  formats::SafetensorsWriter writer(folder / file, layout);
  for (const TensorPart* part : parts) {
    const at::Tensor on_host = part->rows.detach().to(at::kCPU).contiguous();
    writer.write({static_cast<const std::byte*>(on_host.const_data_ptr()), on_host.nbytes()});
  }
  const formats::WrittenFile written = writer.finish();
  return {file, written.bytes, written.xxh3_128};
}

std::vector<FileChecksum> write_shards(const fs::path& folder, std::span<const TensorPart> parts,
                                       int rank, std::uint64_t max_shard_bytes) {
  std::set<std::string> names;
  for (const TensorPart& part : parts) {
    if (!names.insert(part.name).second) {
      throw UsageError(concat("checkpoint: tensor \"", part.name, "\" is given twice"));
    }
  }
  std::vector<FileChecksum> shards;
  for (const auto& file_parts : cut_into_files(parts, rank, max_shard_bytes)) {
    char name[64];
    std::snprintf(name, sizeof(name), "shard-r%05d-%05zu.safetensors", rank, shards.size());
    shards.push_back(write_shard(folder, name, file_parts));
  }
  return shards;
}

/// The shard lists of all ranks, in rank order, on every rank.
std::vector<FileChecksum> gather_shards(distributed::Communicator& communicator,
                                        const std::vector<FileChecksum>& mine) {
  json list = json::array();
  for (const FileChecksum& shard : mine) list.push_back({shard.file, shard.bytes, shard.xxh3_128});
  std::vector<FileChecksum> all;
  for (const std::string& text : distributed::all_gather_text(communicator, list.dump())) {
    for (const json& shard : json::parse(text)) {
      all.push_back({shard.at(0), shard.at(1), shard.at(2)});
    }
  }
  return all;
}

/// Manifest last, then the rename that makes the checkpoint exist.
void publish(const fs::path& temporary, const fs::path& target,
             const formats::CheckpointManifest& manifest) {
  write_file(temporary / "manifest.json", formats::manifest_to_json(manifest));
  std::error_code absent;
  if (fs::exists(target, absent)) {
    log::warn("replacing ", target.string());
    delete_folder(target);
  }
  rename_path(temporary, target);
  sync_directory(target.parent_path());
}

}  // namespace

fs::path commit_checkpoint(distributed::Communicator& communicator, const fs::path& checkpoints,
                           formats::CheckpointManifest manifest, std::span<const TensorPart> parts,
                           const CommitOptions& options) {
  const bool is_first = communicator.rank() == 0;
  const fs::path target = checkpoints / formats::checkpoint_folder_name(manifest.step);
  std::string temporary_text;
  distributed::run_together(communicator, [&] {
    if (is_first) temporary_text = prepare(checkpoints, manifest.step).string();
  });
  const fs::path temporary = distributed::all_gather_text(communicator, temporary_text)[0];
  try {
    std::vector<FileChecksum> mine;
    distributed::run_together(communicator, [&] {
      mine = write_shards(temporary, parts, communicator.rank(), options.max_shard_bytes);
    });
    manifest.shards = gather_shards(communicator, mine);
    distributed::run_together(communicator, [&] {
      if (is_first) publish(temporary, target, manifest);
    });
  } catch (...) {
    std::error_code ignored;
    if (is_first) fs::remove_all(temporary, ignored);
    throw;
  }
  // Together, because nobody may leave, or end, before the checkpoint exists.
  distributed::run_together(communicator, [&] {
    if (is_first) apply_retention(checkpoints, manifest.step, options.keep, options.keep_every);
  });
  return target;
}

}  // namespace fbi::checkpoint
