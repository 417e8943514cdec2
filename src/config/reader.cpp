#include "config/reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "config/values.h"
#include "fbi/core/error.h"
#include "fbi/core/text_distance.h"

namespace fbi::config {
namespace {

constexpr std::ptrdiff_t kMaxKeyDots = 16;  // documents are walked recursively

const Field* find_field(const std::vector<Field>& fields, std::string_view path) {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const Field& field) { return field.key == path; });
  return found == fields.end() ? nullptr : &*found;
}

bool is_section(const std::vector<Field>& fields, std::string_view path) {
  return std::any_of(fields.begin(), fields.end(),
                     [&](const Field& field) { return within(field.key, path); });
}

std::string_view last_part(std::string_view path) {
  const auto dot = path.rfind('.');
  return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

std::string_view parent_of(std::string_view path) {
  const auto dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}

// What other programs call our fields.
constexpr std::array<std::pair<std::string_view, std::string_view>, 22> kForeignNames = {{
    {"learning_rate", "optimizer.lr"},
    {"max_lr", "optimizer.lr"},
    {"min_lr", "optimizer.end_lr"},
    {"lr_scheduler_type", "optimizer.schedule"},
    {"warmup_iters", "optimizer.warmup_steps"},
    {"lr_decay_iters", "optimizer.total_steps"},
    {"grad_clip", "optimizer.clip_norm"},
    {"max_grad_norm", "optimizer.clip_norm"},
    {"batch_size", "train.micro_batch"},
    {"batch_size", "evaluation.batch"},
    {"per_device_train_batch_size", "train.micro_batch"},
    {"gradient_accumulation_steps", "train.global_batch"},
    {"max_iters", "train.steps"},
    {"max_steps", "train.steps"},
    {"seq_length", "train.seq_len"},
    {"block_size", "train.seq_len"},
    {"save_steps", "checkpoint.every_steps"},
    {"logging_steps", "log.every_steps"},
    {"n_layer", "model.num_hidden_layers"},
    {"n_head", "model.num_attention_heads"},
    {"n_kv_head", "model.num_key_value_heads"},
    {"n_embd", "model.hidden_size"},
}};

// Our name of a field of another program, or nothing: in the section of `path` when it has one.
std::string translated(const std::vector<Field>& fields, std::string_view path) {
  std::string first;
  for (const auto& [foreign, ours] : kForeignNames) {
    if (foreign != last_part(path)) continue;
    const std::string beside = concat(parent_of(path), ".", last_part(ours));
    if (find_field(fields, beside)) return beside;
    if (first.empty() && find_field(fields, ours)) first = ours;
  }
  return first;
}

// Names one level below `parent`: fields and sections.
std::vector<std::string> names_below(const std::vector<Field>& fields, std::string_view parent) {
  std::vector<std::string> names;
  for (const Field& field : fields) {
    if (!parent.empty() && !within(field.key, parent)) continue;
    std::string_view rest = field.key;
    if (!parent.empty()) {
      if (rest.size() == parent.size()) continue;
      rest.remove_prefix(parent.size() + 1);
    }
    std::string name(rest.substr(0, rest.find('.')));
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}

void read_object(const std::vector<Field>& fields, const Json& object, const std::string& path,
                 Problems& problems) {
  for (const auto& [key, value] : object.items()) {
    const std::string child = path.empty() ? key : path + "." + key;
    if (const Field* field = find_field(fields, child)) {
      read_value(*field, value, problems);
    } else if (!is_section(fields, child)) {
      problems.add(child, show(value), "unknown key" + key_suggestion(fields, child));
    } else if (value.is_object()) {
      read_object(fields, value, child, problems);
    } else {
      problems.add(child, show(value), "expected an object {...}");
    }
  }
}

// The value of an assignment: JSON, else the text as it stands.
bool parse_assigned(const Field* field, const std::string& key, const std::string& text,
                    Json& value, Problems& problems) {
  auto parsed = parse_json(text, Comments::kRefused);
  if (auto* document = std::get_if<ParsedJson>(&parsed)) {
    for (const std::string& duplicate : document->duplicate_keys) {
      problems.add(key + "." + duplicate, "", "the key is given twice");
    }
    value = std::move(document->root);
    const bool literal = (value.is_number() || value.is_boolean() || value.is_null());
    if (literal && field && is_textual(*field)) value = text;
    return true;
  }
  if (!text.empty() && std::string_view("[{\"").find(text.front()) != std::string_view::npos) {
    problems.add(key, text, "not valid JSON: " + std::get<SyntaxError>(parsed).message);
    return false;
  }
  value = text;
  try {
    (void)value.dump();
  } catch (const Json::type_error&) {
    problems.add(key, show(value), "not valid UTF-8");
    return false;
  }
  return true;
}

// The place of a dotted key, made where it is missing.
Json& place_of(Json& root, std::string_view key) {
  Json* place = &root;
  while (!key.empty()) {
    const auto dot = key.find('.');
    if (!place->is_object()) *place = Json::object();
    place = &(*place)[std::string(key.substr(0, dot))];
    key = dot == std::string_view::npos ? std::string_view() : key.substr(dot + 1);
  }
  return *place;
}

// What an assignment to `key` adds to `root`: the first of its parents that is not there, else
// itself.
std::string topmost_absent(const Json& root, const std::string& key) {
  const Json* place = &root;
  for (std::size_t begin = 0; begin < key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    const auto child =
        place->is_object() ? place->find(key.substr(begin, end - begin)) : place->end();
    if (child == place->end()) return key.substr(0, end);
    place = &*child;
    begin = end + 1;
  }
  return key;
}

}  // namespace

template <class E>
Json parse_document(std::string_view text, const std::string& source_name, Problems& problems) {
  auto parsed = parse_json(text, Comments::kAllowed);
  if (const auto* error = std::get_if<SyntaxError>(&parsed)) {
    const std::string place =
        error->line > 0 ? concat(":", error->line, ":", error->column) : std::string();
    throw E(concat(source_name, place, ": not valid JSON: ", error->message));
  }
  auto& document = std::get<ParsedJson>(parsed);
  for (const std::string& path : document.duplicate_keys) {
    problems.add(path, "", "the key is given twice");
  }
  if (!document.root.is_object()) {
    throw E(concat(source_name, ": expected a JSON object {...}, found ", show(document.root)));
  }
  return std::move(document.root);
}

template Json parse_document<UsageError>(std::string_view, const std::string&, Problems&);
template Json parse_document<DataError>(std::string_view, const std::string&, Problems&);

void read_fields(const std::vector<Field>& fields, const Json& root, Problems& problems) {
  read_object(fields, root, "", problems);
}

std::string key_suggestion(const std::vector<Field>& fields, const std::string& path) {
  const std::string ours = translated(fields, path);
  if (!ours.empty()) return concat("; did you mean ", ours, "?");
  const std::string_view parent = parent_of(path);
  std::string close = nearest(last_part(path), names_below(fields, parent));
  if (!close.empty()) {
    if (!parent.empty()) close = concat(parent, ".", close);
    return concat("; did you mean ", close, "?");
  }
  // A right name in the wrong section, or a slip in a section's name.
  std::vector<std::string> keys;
  for (const Field& field : fields) {
    if (last_part(field.key) == last_part(path)) return concat("; did you mean ", field.key, "?");
    keys.push_back(field.key);
  }
  close = nearest(path, keys);
  return close.empty() ? std::string() : concat("; did you mean ", close, "?");
}

void apply_override(const std::vector<Field>& fields, const std::string& assignment, Json& root,
                    Problems& problems) {
  const auto equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    problems.add("--set " + assignment, "", "expected KEY=VALUE, e.g. optimizer.lr=2e-4");
    return;
  }
  const std::string key = assignment.substr(0, equals);
  if (std::count(key.begin(), key.end(), '.') > kMaxKeyDots) {
    problems.add(key.substr(0, 100), "", "unknown key");
    return;
  }
  Json value;
  if (!parse_assigned(find_field(fields, key), key, assignment.substr(equals + 1), value,
                      problems)) {
    return;
  }
  problems.set_origin(topmost_absent(root, key), "--set");
  merge_into(place_of(root, key), value);
}

}  // namespace fbi::config
