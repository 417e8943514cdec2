#include <charconv>
#include <cxxopts.hpp>
#include <limits>

#include "cli/verb.h"
#include "fbi/core/error.h"
#include "fbi/core/text_distance.h"

namespace fbi::cli {
namespace {
constexpr const char* kCommand = "command";  // words for another program
}

/// Fills Arguments; a struct of its own so that cxxopts stays in this file.
struct ArgumentParser {
  const Verb& verb;
  Arguments result;

  const Option* find(const std::string& name) const {
    for (const auto& option : verb.options)
      if (option.name == name) return &option;
    return nullptr;
  }

  cxxopts::Options declare() const {
    cxxopts::Options options(program().name + " " + verb.name);
    for (const auto& option : verb.options) {
      if (option.value.empty())
        options.add_options()(option.name, option.help);
      else
        options.add_options()(option.name, option.help, cxxopts::value<std::string>());
    }
    return options;
  }

  void parse(const std::vector<std::string>& words) {
    std::vector<const char*> argv{program().name.c_str()};
    for (const auto& word : words) argv.push_back(word.c_str());
    check_known(words);
    auto options = declare();
    const auto parsed = [&] {
      try {
        return options.parse(static_cast<int>(argv.size()), argv.data());
      } catch (const cxxopts::exceptions::exception& error) {
        throw UsageError(concat(error.what(), "; see ", program().name, " ", verb.name, " --help"));
      }
    }();
    for (const auto& item : parsed.arguments()) add(item.key(), item.value());
    for (const auto& word : parsed.unmatched()) {
      if (verb.positional.empty())
        throw UsageError(concat("unexpected argument '", word, "'; see ", program().name, " ",
                                verb.name, " --help"));
      add(verb.positional, word);
    }
    apply_defaults();
  }

  void add(const std::string& name, const std::string& value) {
    result.values_[name].push_back(value);
    result.given_.insert(name);
  }

  /// Before cxxopts, whose message knows no nearest name. A word that is an option's value may
  /// begin with dashes.
  void check_known(const std::vector<std::string>& words) const {
    std::string first_word;
    for (std::size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
      if (!words[i].starts_with("--")) {
        if (first_word.empty()) first_word = words[i];
        continue;
      }
      const std::size_t equals = words[i].find('=');
      const std::string name =
          words[i].substr(2, equals == std::string::npos ? equals : equals - 2);
      const Option* option = find(name);
      if (!option && verb.positional == kCommand && !first_word.empty())
        throw UsageError(concat("put -- before the verb, so that --", name, " is an option of ",
                                first_word, ": ", program().name, " ", verb.name, " … -- ",
                                first_word, " …"));
      if (!option) throw_unknown(name);
      if (option->value.empty() && equals != std::string::npos)
        throw UsageError(concat(words[i], ": --", name, " takes no value; leave it out"));
      if (!option->value.empty() && equals == std::string::npos) ++i;
    }
  }

  [[noreturn]] void throw_unknown(const std::string& name) const {
    std::vector<std::string> names;
    for (const auto& option : verb.options) names.push_back(option.name);
    const std::string close = nearest(name, names);
    throw UsageError(concat("unknown option --", name, " of ", program().name, " ", verb.name,
                            close.empty() ? "." : concat("; did you mean --", close, "?"), " See ",
                            program().name, " ", verb.name, " --help"));
  }

  void apply_defaults() {
    std::string missing;
    for (const auto& option : verb.options) {
      auto& values = result.values_;
      if (!values.contains(option.name)) {
        if (option.required)
          missing += concat("\n  --", option.name, " ", option.value, "  ", option.help);
        if (!option.default_value.empty()) values[option.name] = {option.default_value};
      } else if (!option.repeated && values[option.name].size() > 1) {
        throw UsageError(concat("--", option.name, " is given ", values[option.name].size(),
                                " times; once is enough"));
      } else if (option.required && !option.repeated && values[option.name].front().empty()) {
        throw UsageError(concat("--", option.name, ": expected ", option.value, ", found ''"));
      }
    }
    if (!missing.empty())
      throw UsageError(concat(program().name, " ", verb.name, " needs:", missing));
  }
};

Arguments parse_arguments(const Verb& verb, const std::vector<std::string>& words) {
  ArgumentParser parser{verb, {}};
  parser.parse(words);
  return std::move(parser.result);
}

std::string Arguments::text(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::string() : found->second.front();
}

void Arguments::refuse(const std::vector<std::string>& names, const std::string& reason) const {
  for (const auto& name : names)
    if (given(name)) throw UsageError(concat("--", name, " ", reason));
}

namespace {

template <class Number>
Number parse_number(const std::string& name, const std::string& text, const char* kind) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw UsageError(concat("--", name, ": expected ", kind, ", found '", text, "'"));
  return value;
}

}  // namespace

std::int64_t Arguments::integer(const std::string& name) const {
  return parse_number<std::int64_t>(name, text(name), "an integer");
}

std::int64_t Arguments::integer(const std::string& name, std::int64_t least,
                                std::int64_t most) const {
  const std::int64_t value = integer(name);
  if (value < least || value > most)
    throw UsageError(concat("--", name, ": expected ", least, " to ", most, ", found ", value));
  return value;
}

int Arguments::threads() const {
  const std::int64_t count = integer("threads");
  if (count < 0 || count > 4096)
    throw UsageError(concat("--threads: expected 0 (all processors) to 4096, found ", count));
  return static_cast<int>(count);
}

std::uint64_t Arguments::seed() const {
  return static_cast<std::uint64_t>(integer("seed", 0, std::numeric_limits<std::int64_t>::max()));
}

double Arguments::number(const std::string& name) const {
  return parse_number<double>(name, text(name), "a number");
}

std::string Arguments::all_but(const std::vector<std::string>& except) const {
  std::string out;
  for (const auto& [name, values] : values_) {
    if (std::find(except.begin(), except.end(), name) != except.end()) continue;
    out += name;
    for (const std::string& value : values) out += " " + value;
    out += "\n";
  }
  return out;
}

const std::vector<std::string>& Arguments::list(const std::string& name) const {
  static const std::vector<std::string> none;
  const auto found = values_.find(name);
  return found == values_.end() ? none : found->second;
}

}  // namespace fbi::cli
