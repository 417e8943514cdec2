#include "fbi/config/load.h"

#include "config/architecture.h"
#include "config/fields.h"
#include "config/reader.h"
#include "config/validate.h"
#include "config/values.h"
#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::config {
namespace {

constexpr std::uint64_t kMaxFileBytes = 4u << 20;

// `"model": "FILE"` is short for `"model": {"architecture": "FILE"}`.
void expand_model(Json& root) {
  if (root.contains("model") && root["model"].is_string()) {
    root["model"] = Json{{"architecture", root["model"]}};
  }
}

bool names_architecture(const Json& root) {
  return root.contains("model") && root["model"].is_object() &&
         root["model"].contains("architecture");
}

// The keys of the architecture file, in ModelConfig's terms; empty when it is unreadable. `section`
// holds keys that go before those of the file.
Json load_architecture(const std::filesystem::path& file, const Json& section, Problems& problems) {
  try {
    Problems syntax;
    const Json source =
        parse_document<DataError>(read_file(file, kMaxFileBytes), file.string(), syntax);
    if (!syntax.empty()) throw DataError(syntax.report(file.string()));
    for (const auto& item : source.items()) {
      if (!section.contains(item.key())) {
        problems.set_origin("model." + item.key(), file.string());
      }
    }
    return plain_architecture(source, "model.", UnknownKeys::kLog, problems);
  } catch (const DataError& error) {
    problems.add("model.architecture", "", error.what());
    return Json::object();
  }
}

// Replaces the model section by one with ModelConfig's own keys only.
void flatten_model(Json& root, const std::filesystem::path& folder, Problems& problems) {
  if (!root.contains("model")) return;
  if (!root["model"].is_object()) {
    problems.add("model", show(root["model"]), "expected an object {...} or the path of a file");
    root.erase("model");
    return;
  }
  Json& section = root["model"];
  Json plain = Json::object();
  if (const auto name = section.find("architecture"); name != section.end()) {
    if (name->is_string()) {
      plain = load_architecture(folder / name->get<std::string>(), section, problems);
    } else {
      problems.add("model.architecture", show(*name), "expected the path of a file");
    }
    section.erase("architecture");
  }
  for (const auto& item : section.items()) {
    if (!item.value().is_null()) continue;
    plain.erase(item.key());
    if (item.key() != "rope_parameters") continue;  // the newer form of both
    plain.erase("rope_scaling");
    plain.erase("rope_theta");
  }
  merge_into(plain, plain_architecture(section, "model.", UnknownKeys::kKeep, problems));
  section = std::move(plain);
}

}  // namespace

RunConfig parse_run_config(std::string_view text, const std::string& source_name,
                           const std::filesystem::path& folder, const LoadOptions& options) {
  Problems problems;
  RunConfig config;
  const std::vector<Field> fields = fields_of(config);
  Json root = parse_document<UsageError>(text, source_name, problems);
  expand_model(root);
  std::filesystem::path architecture_folder = folder;
  for (const std::string& assignment : options.overrides) {
    const bool had_architecture = names_architecture(root);
    const Json before = had_architecture ? root["model"]["architecture"] : Json();
    apply_override(fields, assignment, root, problems);
    expand_model(root);
    if (names_architecture(root) && root["model"]["architecture"] != before)
      architecture_folder = ".";
  }
  flatten_model(root, architecture_folder, problems);
  read_fields(fields, root, problems);
  check_config(config, options.world_size, problems);
  if (!problems.empty()) throw UsageError(problems.report(source_name));
  resolve(config, options.world_size, options.continued);
  return config;
}

RunConfig load_run_config(const std::filesystem::path& file, const LoadOptions& options) {
  std::string text;
  try {
    text = read_file(file, kMaxFileBytes);
  } catch (const DataError& error) {
    throw UsageError(concat("cannot read the configuration: ", error.what()));
  }
  return parse_run_config(text, file.string(), file.parent_path(), options);
}

ModelConfig load_model_config(const std::filesystem::path& file) {
  const std::string text = read_file(file, kMaxFileBytes);
  Problems problems;
  Json root = parse_document<DataError>(text, file.string(), problems);
  if (!root.contains("model")) return model_config_from_hf_json(text, file.string());
  expand_model(root);
  flatten_model(root, file.parent_path(), problems);
  ModelConfig model;
  const std::vector<Field> fields = fields_of(model, "model.");
  if (root.contains("model")) read_fields(fields, {{"model", root["model"]}}, problems);
  for (const Field& field : fields) check_range(field, problems);
  check_model(model, "model.", problems);
  if (!problems.empty()) throw UsageError(problems.report(file.string()));
  resolve(model);
  return model;
}

}  // namespace fbi::config
