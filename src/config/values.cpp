#include "config/values.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "fbi/core/error.h"
#include "fbi/core/text_distance.h"

namespace fbi::config {
namespace {

// 2^53: doubles up to here hold every integer.
constexpr double kExactIntegers = 9007199254740992.0;

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

// 1e6 and 2000.0 are integers to whoever writes a configuration.
bool convert(const Json& value, std::int64_t& out) {
  if (value.is_number_unsigned()) {
    if (value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
      return false;
    out = value.get<std::int64_t>();
    return true;
  }
  if (value.is_number_integer()) {
    out = value.get<std::int64_t>();
    return true;
  }
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  if (std::trunc(number) != number || std::abs(number) > kExactIntegers) return false;
  out = static_cast<std::int64_t>(number);
  return true;
}

bool convert(const Json& value, std::uint64_t& out) {
  if (value.is_number_unsigned()) {
    out = value.get<std::uint64_t>();
    return true;
  }
  std::int64_t number = 0;
  if (!convert(value, number) || number < 0) return false;
  out = static_cast<std::uint64_t>(number);
  return true;
}

bool convert(const Json& value, double& out) {
  if (!value.is_number()) return false;
  out = value.get<double>();
  return true;
}

bool convert(const Json& value, bool& out) {
  if (!value.is_boolean()) return false;
  out = value.get<bool>();
  return true;
}

bool convert(const Json& value, std::string& out) {
  if (!value.is_string()) return false;
  out = value.get<std::string>();
  return true;
}

bool convert(const Json& value, std::optional<std::int64_t>& out) {
  if (value.is_null()) {
    out.reset();
    return true;
  }
  return convert(value, out.emplace());
}

template <class T>
bool convert(const Json& value, std::vector<T>& out) {
  out.clear();
  if (!value.is_array()) return convert(value, out.emplace_back());
  for (const Json& element : value) {
    if (!convert(element, out.emplace_back())) return false;
  }
  return true;
}

template <class Enum>
requires std::is_enum_v<Enum>
bool convert(const Json& value, Enum& out) {
  if (!value.is_string()) return false;
  const auto names = spellings(Enum{});
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (value.get_ref<const std::string&>() == names[i]) {
      out = static_cast<Enum>(i);
      return true;
    }
  }
  return false;
}

std::string number_text(double value) {
  if (std::trunc(value) == value && std::abs(value) < kExactIntegers) {
    return std::to_string(static_cast<std::int64_t>(value));
  }
  return Json(value).dump();
}

std::string suggestion(const Field& field, const Json& value) {
  if (field.choices.empty() || !value.is_string()) return {};
  const std::string close = nearest(value.get_ref<const std::string&>(), field.choices);
  return close.empty() ? std::string() : concat("; did you mean \"", close, "\"?");
}

bool has_choice(const Field& field, const std::string& value) {
  return std::find(field.choices.begin(), field.choices.end(), value) != field.choices.end();
}

bool in_range(const Field& field, double value) {
  return field.range.contains(value);
}
bool in_range(const Field& field, std::int64_t value) {
  return field.range.contains(static_cast<double>(value));
}
bool in_range(const Field&, std::uint64_t) {
  return true;
}
bool in_range(const Field&, bool) {
  return true;
}
bool in_range(const Field& field, const std::string& value) {
  return field.choices.empty() || has_choice(field, value);
}
bool in_range(const Field& field, const std::optional<std::int64_t>& value) {
  return !value || in_range(field, *value);
}
template <class T>
bool in_range(const Field& field, const std::vector<T>& values) {
  for (const T& value : values) {
    if (!in_range(field, value)) return false;
    if constexpr (std::is_same_v<T, std::string>) {
      if (value.empty()) return false;
    }
  }
  return !(field.required && values.empty());
}
template <class Enum>
requires std::is_enum_v<Enum>
bool in_range(const Field&, Enum value) {
  return static_cast<std::size_t>(value) < spellings(value).size();
}

template <class T>
Json to_value(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(to_string(value));
  } else if constexpr (std::is_same_v<T, std::optional<std::int64_t>>) {
    return value ? Json(*value) : Json(nullptr);
  } else {
    return value;
  }
}

// A member for a message. JSON has no word for numbers that are not finite.
std::string show_member(const Field& field) {
  if (const auto* number = std::get_if<double*>(&field.member)) {
    return std::isfinite(**number) ? number_text(**number) : concat(**number);
  }
  return show(write_value(field));
}

const char* element_name(const Field& field) {
  if (std::holds_alternative<std::vector<std::string>*>(field.member)) return "texts";
  return std::holds_alternative<std::vector<double>*>(field.member) ? "numbers" : "integers";
}

}  // namespace

void read_value(const Field& field, const Json& value, Problems& problems) {
  const bool fits = std::visit(
      [&](auto pointer) {
        if constexpr (std::is_pointer_v<decltype(pointer)>) {
          std::remove_pointer_t<decltype(pointer)> converted{};
          if (!convert(value, converted)) return false;
          *pointer = std::move(converted);
          return true;
        } else {
          return false;
        }
      },
      field.member);
  if (!fits) {
    problems.add(field.key, show(value),
                 concat("expected ", expectation(field), suggestion(field, value)));
  }
}

Json write_value(const Field& field) {
  return std::visit(
      [](auto pointer) {
        if constexpr (std::is_pointer_v<decltype(pointer)>) {
          return to_value(*pointer);
        } else {
          return Json(nullptr);
        }
      },
      field.member);
}

void check_range(const Field& field, Problems& problems) {
  const bool allowed = std::visit(
      [&](auto pointer) {
        if constexpr (std::is_pointer_v<decltype(pointer)>) {
          return in_range(field, *pointer);
        } else {
          return true;
        }
      },
      field.member);
  if (allowed || problems.touches(field.key)) return;
  problems.add(field.key, show_member(field),
               concat("expected ", expectation(field), suggestion(field, write_value(field)),
                      field.required ? "; this field is required" : ""));
}

std::string type_name(const Field& field) {
  return std::visit(
      [&](auto pointer) -> std::string {
        if constexpr (!std::is_pointer_v<decltype(pointer)>) {
          return "text";
        } else {
          using Value = std::remove_pointer_t<decltype(pointer)>;
          if constexpr (IsVector<Value>::value) return concat("list of ", element_name(field));
          if constexpr (std::is_enum_v<Value>) return "choice";
          if constexpr (std::is_same_v<Value, bool>) return "true or false";
          if constexpr (std::is_same_v<Value, double>) return "number";
          if constexpr (std::is_same_v<Value, std::string>) {
            return field.choices.empty() ? "text" : "choice";
          }
          if constexpr (std::is_same_v<Value, std::optional<std::int64_t>>)
            return "integer or null";
          return "integer";
        }
      },
      field.member);
}

std::string range_text(const Field& field) {
  if (!field.choices.empty()) {
    std::string text;
    for (const std::string& choice : field.choices) {
      if (&choice != &field.choices.front()) text += " | ";
      text += choice.empty() ? "\"\"" : choice;
    }
    return text;
  }
  if (std::holds_alternative<std::uint64_t*>(field.member)) return ">= 0";
  if (field.required && std::holds_alternative<std::vector<std::string>*>(field.member)) {
    return "at least one";
  }
  const Range& range = field.range;
  if (std::isfinite(range.low) && std::isfinite(range.high) && !range.low_open &&
      !range.high_open) {
    return number_text(range.low) + " to " + number_text(range.high);
  }
  std::string text;
  if (std::isfinite(range.low)) text = (range.low_open ? "> " : ">= ") + number_text(range.low);
  if (std::isfinite(range.high)) {
    if (!text.empty()) text += " and ";
    text += (range.high_open ? "< " : "<= ") + number_text(range.high);
  }
  return text;
}

std::string expectation(const Field& field) {
  const std::string range = range_text(field);
  if (!field.choices.empty()) return "one of " + range;
  if (std::holds_alternative<bool*>(field.member)) return "true or false";
  const std::string type = type_name(field);
  const std::string article = type.front() == 'i' ? "an " : "a ";
  const bool list = type.rfind("list", 0) == 0;
  if (range.empty()) return article + type;
  const bool from_to = range.find(" to ") != std::string::npos;
  return article + type + (list ? ", " : " ") + (from_to && !list ? "from " : "") + range;
}

bool is_textual(const Field& field) {
  return !field.choices.empty() || std::holds_alternative<std::monostate>(field.member) ||
         std::holds_alternative<std::string*>(field.member) ||
         std::holds_alternative<std::vector<std::string>*>(field.member);
}

}  // namespace fbi::config
