#pragma once

#include <string>

#include "config/fields.h"
#include "config/json.h"
#include "config/problems.h"

/// One field and one JSON value.
namespace fbi::config {

/// Assigns `value`, or adds a problem when its type does not fit (ranges: check_range). A list also
/// takes one element.
void read_value(const Field& field, const Json& value, Problems& problems);

Json write_value(const Field& field);

/// Adds a problem when the member's value is not allowed.
void check_range(const Field& field, Problems& problems);

/// "integer", "number", "list of texts", … for the documentation.
std::string type_name(const Field& field);
/// ">= 1", "> 0 and < 1", "column | row"; empty when anything goes.
std::string range_text(const Field& field);
/// What a message says is needed: "an integer >= 1".
std::string expectation(const Field& field);

/// Whether a command-line value such as 12 or true is meant literally: text, enumerations, lists of
/// texts.
bool is_textual(const Field& field);

}  // namespace fbi::config
