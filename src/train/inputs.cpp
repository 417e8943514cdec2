#include "train/inputs.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fbi/checkpoint/run_directory.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/formats/model_source.h"
#include "fbi/nn/model_folder.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// The checkpoint that `saved` names, if `path` is that, or a run that has it still.
std::optional<fs::path> same_teacher(const fs::path& path, const Inputs& saved) {
  const fs::path checkpoints = checkpoint::RunPaths{path}.checkpoints();
  const fs::path name =  // "step-00000010/", too
      saved.teacher.has_filename() ? saved.teacher.filename()
                                   : saved.teacher.parent_path().filename();
  for (const fs::path& folder : {path, checkpoints / name}) {
    if (!fs::exists(folder / "manifest.json")) continue;
    try {
      if (formats::content_hash(folder) != saved.teacher_hash) continue;
    } catch (const CheckpointError& error) {
      log::warn("teacher.path: ", error.what());
      continue;
    }
    const auto all = formats::list_checkpoints(checkpoints);
    if (!all.empty() && all.front() != folder)
      log::info("teacher.path: the run stays with ", folder.string(), "; the newest is ",
                all.front().filename().string());
    return folder;
  }
  return std::nullopt;
}

fs::path teacher_folder(const fs::path& path, const std::optional<Inputs>& saved) {
  if (saved && !saved->teacher.empty())
    if (const auto folder = same_teacher(path, *saved)) return *folder;
  return nn::open_model_folder(path).path;
}

/// File k, or how many there are when that is beyond the last.
std::string file_text(const std::vector<data::FileContent>& files, std::size_t k) {
  if (k >= files.size()) return concat(files.size(), " file(s)");
  const auto& [name, bytes, hash, position, corpus] = files[k];
  return concat("file ", position, ", ", name, " of ", bytes, " bytes, XXH3 ", hash,
                corpus > 0 ? concat(", in data.paths[", corpus, "]") : "");
}

std::string teacher_text(const Inputs& inputs) {
  return concat(inputs.teacher.string(), fs::exists(inputs.teacher) ? "" : " (which is gone)",
                ", XXH3 ", inputs.teacher_hash);
}

void settle(const config::FieldDifference& difference, bool is_same,
            std::vector<config::FieldDifference>& differences) {
  const auto moved =
      std::erase_if(differences, [&](const auto& other) { return other.key == difference.key; });
  if (!is_same)
    differences.push_back(difference);
  else if (moved > 0)
    log::info(difference.key, " has changed, but what is there is the same");
}

}  // namespace

Inputs read_inputs(const config::RunConfig& config, const std::optional<Inputs>& saved) {
  Inputs inputs;
  inputs.data = data::training_contents(config.data);
  if (config.objective.distill > 0) {
    inputs.teacher = teacher_folder(config.teacher.path, saved);
    inputs.teacher_hash = formats::content_hash(inputs.teacher);
  }
  return inputs;
}

Json to_json(const Inputs& inputs) {
  Json files = Json::array();
  for (const auto& [name, bytes, hash, position, corpus] : inputs.data)
    files.push_back({{"file", name},
                     {"bytes", bytes},
                     {"xxh3_128", hash},
                     {"position", position},
                     {"corpus", corpus}});
  Json out = {{"data", std::move(files)}};
  if (!inputs.teacher.empty())
    out["teacher"] = {{"folder", inputs.teacher.string()}, {"xxh3_128", inputs.teacher_hash}};
  return out;
}

std::optional<Inputs> checkpoint_inputs(const formats::CheckpointReader& checkpoint) {
  const Json state = Json::parse(checkpoint.manifest().state_json);
  if (!state.contains("inputs")) return std::nullopt;
  Inputs inputs;
  try {
    const Json& json = state["inputs"];
    for (const Json& file : json.at("data"))
      inputs.data.push_back({file.at("file"), file.at("bytes"), file.at("xxh3_128"),
                             file.at("position"), file.at("corpus")});
    if (json.contains("teacher")) {
      inputs.teacher = json["teacher"].at("folder").get<std::string>();
      inputs.teacher_hash = json["teacher"].at("xxh3_128");
    }
  } catch (const Json::exception& error) {
    throw CheckpointError(
        concat(checkpoint.path().string(), ": manifest.json: state.inputs: ", error.what()));
  }
  return inputs;
}

void compare_inputs(const Inputs& saved, const Inputs& current,
                    std::vector<config::FieldDifference>& differences) {
  const auto is_same = [](const data::FileContent& a, const data::FileContent& b) {
    return a.bytes == b.bytes && a.xxh3_128 == b.xxh3_128 && a.position == b.position &&
           a.corpus == b.corpus;
  };
  const auto first = std::ranges::mismatch(saved.data, current.data, is_same);
  const auto k = static_cast<std::size_t>(first.in1 - saved.data.begin());
  const bool same_data = first.in1 == saved.data.end() && first.in2 == current.data.end();
  // Another choice among the files is a difference of its own name; then paths are compared.
  const bool other_choice = std::ranges::any_of(differences, [](const auto& difference) {
    return difference.key == "data.skip_files" || difference.key == "data.weights";
  });
  if (same_data || !other_choice) {
    settle({"data.paths", file_text(saved.data, k), file_text(current.data, k)}, same_data,
           differences);
  }
  if (saved.teacher.empty() || current.teacher.empty()) return;
  settle({"teacher.path", teacher_text(saved), teacher_text(current)},
         saved.teacher_hash == current.teacher_hash, differences);
}

}  // namespace fbi::train
