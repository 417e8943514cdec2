#include "fbi/formats/checkpoint_reader.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/log.h"
#include "formats/file_checksum.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kManifestFile = "manifest.json";
constexpr const char* kOwnHash = "manifest_xxh3_128";

std::string hash_of(const json& value) {
  const std::string text = value.dump();
  return hash128_hex(std::as_bytes(std::span(text.data(), text.size())));
}

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  throw CheckpointError(concat(args...));
}

CheckpointManifest manifest_from_text(const std::string& text, const std::string& place) {
  json root = parse_strict_json(text, place);
  if (!root.is_object()) fail(place, ": expected an object");
  CheckpointManifest manifest;
  manifest.format_version = json_field<int>(root, "format_version", place);
  if (manifest.format_version < 1 || manifest.format_version > kCheckpointFormatVersion) {
    fail(place, ": expected format version 1 to ", kCheckpointFormatVersion, ", found ",
         manifest.format_version, "; it was written by another version of this program");
  }
  const auto expected_hash = json_field<std::string>(root, kOwnHash, place);
  root.erase(kOwnHash);
  if (const std::string found = hash_of(root); found != expected_hash) {
    fail(place, " has been altered: expected XXH3 ", printable(expected_hash), ", found ", found);
  }
  manifest.step = json_field<std::int64_t>(root, "step", place);
  manifest.config_hash = json_field<std::string>(root, "config_hash", place);
  manifest.shards = checksums_from_json(root, "shards", place);
  if (!root.contains("state") || !root["state"].is_object()) {
    fail(place, ": field state: expected an object");
  }
  manifest.state_json = root["state"].dump();
  return manifest;
}

}  // namespace

std::string manifest_to_json(const CheckpointManifest& manifest) {
  json root;
  try {
    root = {{"format_version", manifest.format_version},
            {"step", manifest.step},
            {"config_hash", manifest.config_hash},
            {"shards", checksums_to_json(manifest.shards)},
            {"state", json::parse(manifest.state_json)}};
    if (!root["state"].is_object())
      throw UsageError("manifest: state_json: expected a JSON object");
    root[kOwnHash] = hash_of(root);
    return root.dump(2) + "\n";
  } catch (const json::exception& error) {
    throw UsageError(concat("manifest: state_json: ", error.what()));
  }
}

CheckpointManifest manifest_from_file(const fs::path& path) {
  try {
    return manifest_from_text(read_file(path), path.string());
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  }
}

CheckpointReader::CheckpointReader(const fs::path& directory, bool verify_hash)
    : directory_(directory), manifest_(manifest_from_file(directory / kManifestFile)) {
  const auto named_step = checkpoint_step(directory);
  if (named_step && *named_step != manifest_.step) {
    fail((directory / kManifestFile).string(), ": expected step ", *named_step,
         " as the folder's name says, found ", manifest_.step);
  }
  try {
    for (const auto& shard : manifest_.shards) {
      const fs::path path = directory / shard.file;
      if (const auto found = difference(path, shard, verify_hash); !found.empty()) {
        fail("shard ", found);
      }
      files_.push_back(std::make_unique<SafetensorsFile>(path));
      for (const auto& tensor : files_.back()->tensors()) {
        if (!tensors_.emplace(tensor.name, &tensor).second) {
          fail(path.string(), ": tensor ", printable(tensor.name), " is in another shard too");
        }
      }
    }
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  }
}

void CheckpointReader::check_bytes(std::size_t part, std::size_t parts) const {
  try {
    for (std::size_t i = part; i < manifest_.shards.size(); i += parts) {
      const FileChecksum& shard = manifest_.shards[i];
      const std::string found = difference(directory_ / shard.file, shard, /*verify_hash=*/true);
      if (!found.empty()) fail("shard ", found);
    }
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  }
}

std::string checkpoint_folder_name(std::int64_t step) {
  if (step < 0) throw UsageError(concat("expected a step from 0 on, found ", step));
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::optional<std::int64_t> checkpoint_step(const fs::path& folder) {
  constexpr std::string_view kPrefix = "step-";
  const bool slash_at_end = !folder.has_filename();
  const std::string name = (slash_at_end ? folder.parent_path() : folder).filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || rest != end || step < 0 || checkpoint_folder_name(step) != name) {
    return std::nullopt;
  }
  return step;
}

std::vector<fs::path> list_checkpoints(const fs::path& checkpoints) {
  std::error_code error;  // a file server that does not answer is no empty folder
  const bool is_there = fs::exists(checkpoints, error);
  if (error) fail("cannot look for checkpoints in ", checkpoints.string(), ": ", error.message());
  if (!is_there) return {};
  std::vector<std::pair<std::int64_t, fs::path>> found;
  try {
    for (const auto& entry : fs::directory_iterator(checkpoints)) {
      const auto step = checkpoint_step(entry.path());
      if (step && entry.is_directory()) found.emplace_back(*step, entry.path());
    }
  } catch (const fs::filesystem_error& error) {
    fail("cannot list checkpoints in ", checkpoints.string(), ": ", error.code().message());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  std::vector<fs::path> result;
  for (auto& [step, path] : found) result.push_back(std::move(path));
  return result;
}

std::unique_ptr<CheckpointReader> open_first_valid(const std::vector<fs::path>& folders,
                                                   const OpenCheckpoint& open) {
  std::string first_reason;
  for (const auto& folder : folders) {
    try {
      return open(folder);
    } catch (const CheckpointError& error) {
      if (folders.size() == 1) throw;
      log::warn("checkpoint ", folder.string(),
                " is unusable, trying the one before: ", error.what());
      if (first_reason.empty()) first_reason = error.what();
    }
  }
  if (folders.empty()) return nullptr;
  fail("none of the ", folders.size(), " checkpoints in ", folders.front().parent_path().string(),
       " is usable; the newest: ", first_reason);
}

std::vector<fs::path> checkpoints_of(const fs::path& path) {
  if (fs::exists(path / kManifestFile)) return {path};
  const fs::path checkpoints = path / "checkpoints";
  // A run writes environment.json when it begins, checkpoints/ with its first checkpoint.
  if (!fs::is_directory(checkpoints) && !fs::exists(path / "environment.json")) return {};
  auto all = list_checkpoints(checkpoints);
  if (all.empty()) fail(path.string(), ": the run has no checkpoint yet");
  return all;
}

std::unique_ptr<CheckpointReader> open_checkpoint_of(const fs::path& path) {
  return open_first_valid(checkpoints_of(path), [](const fs::path& folder) {
    return std::make_unique<CheckpointReader>(folder);
  });
}

}  // namespace fbi::formats
