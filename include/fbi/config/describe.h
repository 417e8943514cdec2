#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fbi::config {

struct FieldInfo {
  std::string key;            ///< dotted, e.g. "optimizer.lr"
  std::string type;           ///< integer | number | true/false | text | choice | list of …
  std::string default_value;  ///< JSON text, or "required"
  std::string range;          ///< e.g. ">= 1", "column | row | single | none"; empty: any
  bool identity = false;      ///< part of the run's identity: fixed when a run is continued
  std::string help;
};

/// Every field, in the order of the documentation.
std::vector<FieldInfo> list_fields();

/// One line per field: key, default, meaning.
std::string help_text();

/// Help on one field ("optimizer.lr") or on a section ("optimizer"); UsageError with the nearest
/// key for another name.
std::string explain(std::string_view key);

/// The text of docs/config.md.
std::string markdown_reference();

}  // namespace fbi::config
