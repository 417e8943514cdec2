#pragma once

#include <string>
#include <vector>

#include "config/fields.h"
#include "config/json.h"
#include "config/problems.h"

/// From a JSON document to fields.
namespace fbi::config {

/// Parses; duplicate keys become problems. UsageError or DataError (`E`) naming line and column on
/// broken syntax.
template <class E>
Json parse_document(std::string_view text, const std::string& source_name, Problems& problems);

/// Assigns every value of `root`, an object, to the field of its dotted path; adds problems for
/// wrong types and unknown keys.
void read_fields(const std::vector<Field>& fields, const Json& root, Problems& problems);

/// Applies "a.b=value" to the document; see LoadOptions::overrides.
void apply_override(const std::vector<Field>& fields, const std::string& assignment, Json& root,
                    Problems& problems);

/// "; did you mean a.b?" for a dotted path that is no field, or nothing.
std::string key_suggestion(const std::vector<Field>& fields, const std::string& path);

}  // namespace fbi::config
