#include "fbi/config/describe.h"

#include <algorithm>

#include "config/fields.h"
#include "config/problems.h"
#include "config/reader.h"
#include "config/values.h"
#include "fbi/core/error.h"

namespace fbi::config {
namespace {

constexpr std::size_t kHelpColumn = 46;

constexpr std::string_view kIntroduction = R"(# Configuration

A run is described by one JSON file; `//` and `/* */` comments are allowed. `configs/` has
examples. Every field has a default, except those marked *required*. A field is changed on the
command line with `--set KEY=VALUE`:

    fbi-llm train --config configs/130m.json --set optimizer.lr=2e-4 \
        --set 'data.paths=["a", "b"]' --run-dir runs/a

VALUE is JSON, or else plain text; an object is merged into what the file says; a list of one may
be written without brackets. All mistakes are reported together, and unknown keys with the nearest
valid one, before anything starts. `fbi-llm config --explain KEY` prints the row of one field.

`model` takes the keys of a Hugging Face `config.json` (LLaMA), as an object or as the path of
such a file, relative to the configuration's folder: `"model": "FBI-LLM_llama2_130M.json"`. With
`"model": {"architecture": "FILE", ...}` other keys go before those of the file. A path given with
`--set` starts at the current folder. Keys that change the maths and are not implemented
(`attention_bias`, `mlp_bias`, `sliding_window`, other activations, other rotary scalings,
quantized weights, other model types) are refused by name; `rope_parameters` is read as well as
`rope_scaling` and `rope_theta`.

*Identity* fields decide what a run computes: together they are hashed into every checkpoint, and
continuing a run with another value is refused unless `--allow-change KEY` says otherwise. *Free*
fields may change whenever a run is continued. A longer run (`train.steps`) is a legal
continuation when `optimizer.total_steps` is set; when that is 0 it takes the value of
`train.steps` at the start, and so fixes the schedule. The constant schedule has no end, so with it
a run may always be made longer. Of `data.paths` and `teacher.path` it is
what lies there that counts: the same data and teacher may be moved, others in their place are
refused, and of a teacher that is a run the checkpoint of the start is taken
again: one that its retention may delete is better named as a kept checkpoint or an export. Of an
Amber file, and of each tensor of a teacher in a model folder, only size and first and last 64 KiB
are compared: a change in between is not noticed.

micro-steps per optimizer step = `train.global_batch` / (`train.micro_batch` x ranks)

This page is generated from the list of fields in `src/config/fields.cpp`.
)";

// Fields at or below a key.
std::vector<FieldInfo> fields_within(std::string_view key) {
  std::vector<FieldInfo> found = list_fields();
  std::erase_if(found, [&](const FieldInfo& field) { return !within(field.key, key); });
  return found;
}

std::string help_line(const FieldInfo& field) {
  std::string line = concat("  ", field.key, " = ", field.default_value);
  line.resize(std::max(line.size() + 2, kHelpColumn), ' ');
  return line + field.help + "\n";
}

std::string section_text(std::string_view name, std::string_view title) {
  std::string text = concat(name, ": ", title, "\n");
  for (const FieldInfo& field : fields_within(name)) text += help_line(field);
  return text;
}

std::string field_text(const FieldInfo& field) {
  std::string text = concat(field.key, ": ", field.help, "\n  type      ", field.type, "\n");
  if (!field.range.empty()) text += concat("  range     ", field.range, "\n");
  text += concat("  default   ", field.default_value, "\n");
  text += concat("  when a run is continued: ",
                 field.identity ? "fixed (part of the run's identity)\n" : "may change\n");
  return text;
}

// Cell of a Markdown table.
std::string code(const std::string& text) {
  std::string cell = "`";
  for (const char c : text) {
    if (c == '|') cell += '\\';
    cell += c;
  }
  return text.empty() ? text : cell + "`";
}

std::string markdown_row(const FieldInfo& field) {
  const bool required = field.default_value == "required";
  return concat("| `", field.key, "` | ", field.type, " | ",
                required ? "*required*" : code(field.default_value), " | ", code(field.range),
                " | ", field.identity ? "identity" : "free", " | ", field.help, " |\n");
}

}  // namespace

std::vector<FieldInfo> list_fields() {
  RunConfig defaults;
  std::vector<FieldInfo> infos;
  for (const Field& field : fields_of(defaults)) {
    const bool input_only = std::holds_alternative<std::monostate>(field.member);
    const Json value = input_only ? Json("") : write_value(field);
    infos.push_back({.key = field.key,
                     .type = type_name(field),
                     .default_value = field.required ? "required" : show(value),
                     .range = range_text(field),
                     .identity = field.role == Role::kIdentity,
                     .help = field.help});
  }
  return infos;
}

std::string help_text() {
  std::string text;
  for (const auto& [name, title] : sections()) {
    if (!text.empty()) text += "\n";
    text += section_text(name, title);
  }
  return text;
}

std::string explain(std::string_view key) {
  const std::vector<FieldInfo> found = fields_within(key);
  if (found.empty()) {
    RunConfig config;
    throw UsageError(concat("no configuration field is called \"", key, "\"",
                            key_suggestion(fields_of(config), std::string(key))));
  }
  if (found.size() == 1 && found.front().key == key) return field_text(found.front());
  for (const auto& [name, title] : sections()) {
    if (name == key) return section_text(name, title);
  }
  std::string text = concat(key, ":\n");
  for (const FieldInfo& field : found) text += help_line(field);
  return text;
}

std::string markdown_reference() {
  std::string text(kIntroduction);
  for (const auto& [name, title] : sections()) {
    text += concat("\n## ", name, "\n\n", title, ".\n\n",
                   "| key | type | default | range | when continued | meaning |\n",
                   "|---|---|---|---|---|---|\n");
    for (const FieldInfo& field : fields_within(name)) text += markdown_row(field);
  }
  return text;
}

}  // namespace fbi::config
