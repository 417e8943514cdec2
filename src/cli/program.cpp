#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>

#include "cli/verb.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/core/text_distance.h"
#include "fbi/core/version.h"

namespace fbi::cli {
namespace {

/// The verb that the first one or two words name; `words` keeps the rest.
const Verb& find_verb(std::vector<std::string>& words) {
  const std::string one = words[0], two = words.size() > 1 ? words[0] + " " + words[1] : words[0];
  std::vector<std::string> names;
  for (const auto& verb : verbs()) {
    names.push_back(verb.name);
    if (verb.name != two && verb.name != one) continue;
    words.erase(words.begin(), words.begin() + (verb.name == one ? 1 : 2));
    return verb;
  }
  std::string parts;
  for (const auto& name : names)
    if (name.starts_with(one + " ")) parts += concat("\n  ", program().name, " ", name);
  std::string given = two, close = nearest(two, names);
  if (close.empty()) given = one, close = nearest(one, names);
  if (!parts.empty() && close.empty())
    throw UsageError(concat(program().name, " ", one, " needs one more word:", parts));
  throw UsageError(
      concat("unknown verb '", given, "'",
             close.empty() ? std::string(".") : concat("; did you mean '", close, "'?"), " Run ",
             program().name, " --help for the list."));
}

bool asks_for_help(const std::vector<std::string>& words) {
  for (const auto& word : words) {
    if (word == "--") return false;  // what follows is for another program
    if (word == "--help" || word == "-h") return true;
  }
  return false;
}

/// Also that of LibTorch's allocators, which only their text tells here, where LibTorch may be
/// absent.
bool is_lack_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return true;
  if (dynamic_cast<const PeerError*>(&error)) return false;  // it tells of another rank's
  const std::string_view text = error.what();
  return text.find("can't allocate memory") != text.npos ||
         text.find("CUDA out of memory") != text.npos;
}

int run_words(std::vector<std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    std::cout << (words.size() > 1 && words[1] == "--markdown" ? markdown_reference()
                                                               : overview_text());
    return words.empty() ? static_cast<int>(ExitCode::kUsage) : 0;
  }
  if (words[0] == "--version") {
    std::cout << program().name << " " << version() << "\n";
    return 0;
  }
  if (words.size() == 2 && asks_for_help(words)) {  // fbi-llm eval --help: all verbs that begin so
    bool found = false;
    for (const auto& verb : verbs()) {
      if (verb.name != words[0] && !verb.name.starts_with(words[0] + " ")) continue;
      std::cout << (found ? "\n" : "") << help_text(verb);
      found = true;
    }
    if (found) return 0;
  }
  const Verb& verb = find_verb(words);
  if (verb.heeds_stop)
    install_stop_handlers();
  else
    keep_stop_actions();
  if (asks_for_help(words)) {
    std::cout << help_text(verb);
    return 0;
  }
  try {
    return verb.run(parse_arguments(verb, words));
  } catch (const std::exception& error) {
    if (!is_lack_of_memory(error)) throw;
    log::error("out of memory; ",
               verb.memory_hint.empty() ? program().memory_hint : verb.memory_hint);
    return static_cast<int>(ExitCode::kUnexpected);
  }
}

/// What was printed may still lie in a buffer, and find a full disk only now.
void flush_standard_output() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (errno == EPIPE || (flushed && std::cout && !std::ferror(stdout))) return;
  throw DiskError(concat(
      "cannot write standard output: ", errno ? std::strerror(errno) : "an earlier write failed",
      "; what was printed is not complete"));
}

}  // namespace

int run_program(int argc, char** argv) {
  log::add_terminal(log::Level::kInfo);
  try {
    const int code = run_words({argv + 1, argv + argc});
    if (code == 0) flush_standard_output();
    return code;
  } catch (const Error& error) {
    log::error(error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::bad_alloc&) {
    log::error("out of memory; ", program().memory_hint);
    return static_cast<int>(ExitCode::kUnexpected);
  } catch (const std::exception& error) {
    log::error("unexpected error: ", error.what());
    return static_cast<int>(ExitCode::kUnexpected);
  }
}

}  // namespace fbi::cli
