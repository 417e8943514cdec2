#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::cli {

/// One command-line option. The lists of options are the one source of --help, of parsing and of
/// docs/cli.md.
struct Option {
  std::string name;   ///< without dashes
  std::string value;  ///< placeholder of its value ("DIR"); empty: a flag
  std::string help;
  std::string default_value = {};  ///< empty: none
  bool required = false;
  bool repeated = false;  ///< may be given several times
};

/// Parsed options of one call. Accessors throw UsageError naming option and value when a value is
/// no number or out of range.
class Arguments {
 public:
  bool has(const std::string& name) const { return values_.contains(name); }
  /// Whether it stands on the command line: `has` is true for a default, too.
  bool given(const std::string& name) const { return given_.contains(name); }
  /// UsageError "--NAME reason" for the first of `names` that is given.
  void refuse(const std::vector<std::string>& names, const std::string& reason) const;
  std::string text(const std::string& name) const;  ///< "" when absent
  std::int64_t integer(const std::string& name) const;
  std::int64_t integer(const std::string& name, std::int64_t least, std::int64_t most) const;
  int threads() const;         ///< --threads, which several verbs have
  std::uint64_t seed() const;  ///< --seed; a negative one is refused
  double number(const std::string& name) const;
  const std::vector<std::string>& list(const std::string& name) const;
  /// Every option that was given or has a default, a line each, but those of `except`.
  std::string all_but(const std::vector<std::string>& except) const;

 private:
  friend struct ArgumentParser;
  std::map<std::string, std::vector<std::string>> values_;
  std::set<std::string> given_;
};

/// One thing that a program does, e.g. "train" or "eval perplexity".
struct Verb {
  std::string name;
  std::string summary;      ///< one line
  std::string description;  ///< some sentences for --help
  std::string positional;   ///< name of the option that takes arguments without dashes; empty: none
  std::vector<Option> options;
  std::vector<std::string> examples;
  int (*run)(const Arguments& arguments);
  /// Whether it asks stop_requested(). Others are ended by SIGINT, SIGTERM, SIGHUP, SIGUSR1,
  /// SIGUSR2 and SIGPIPE as any program is.
  bool heeds_stop = false;
  std::string memory_hint = {};  ///< what to do when memory runs out; empty: the program's
};

/// What a program is called and does. fbi-llm and fbi-run share everything in this header, and each
/// defines program() and verbs().
struct Program {
  std::string name;
  std::string summary;      ///< first line of --help
  std::string hint;         ///< its last line
  std::string memory_hint;  ///< what to do when memory runs out, whatever the verb
  bool trains = false;      ///< whether it can end with the exit codes of a training run
};
const Program& program();

/// All verbs, in the order of a project: data, training, evaluation, export, looking.
const std::vector<Verb>& verbs();

/// Parses `words` (without the verb). UsageError for unknown options (with the nearest one),
/// missing or empty required ones, and flags with a value.
Arguments parse_arguments(const Verb& verb, const std::vector<std::string>& words);

std::string help_text(const Verb& verb);
std::string overview_text();
std::string markdown_reference();  ///< docs/cli.md

/// Runs the whole program: chooses the verb, prints help, maps exceptions to exit codes.
int run_program(int argc, char** argv);

}  // namespace fbi::cli
