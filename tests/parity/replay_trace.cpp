// replay_trace DIR... [--form trainer|latent] [--ranks N] [--recompute] [--products dense|tables]
//              [--working-copy layer|step]
//
// Replays recordings of the published training loop and compares every recorded quantity. Without
// --form all forms run, each where it can. The other options are of the trainer's form, which then
// runs alone: N ranks (threads), train.recompute, train.sign_products, train.working_copy. Exit
// status: 0 everything holds, 1 something does not, 2 wrong usage, 3 unreadable recording.

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <ATen/Parallel.h>

#include "fbi/core/error.h"
#include "parity/forms.h"

namespace fbi::parity {
namespace {

struct Arguments {
  std::vector<std::string> directories;
  std::string form;  ///< "" for all
  TrainerOptions options;
};

/// The word behind an option, one of `choices`.
std::string choice(const std::vector<std::string>& words, std::size_t& i,
                   std::initializer_list<std::string_view> choices) {
  const std::string& option = words[i];
  const std::string value = ++i < words.size() ? words[i] : "";
  if (std::ranges::find(choices, value) != choices.end()) return value;
  std::string expected;
  for (const auto one : choices) expected += concat(expected.empty() ? "" : " or ", one);
  throw UsageError(concat(option, ": expected ", expected, ", found \"", value, "\""));
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--form") {
      out.form = choice(words, i, {"trainer", "latent"});
    } else if (words[i] == "--ranks" && i + 1 < words.size()) {
      out.options.ranks = std::atoi(words[++i].c_str());
      if (out.options.ranks < 1)
        throw UsageError("--ranks: expected a number above 0, found " + words[i]);
    } else if (words[i] == "--recompute") {
      out.options.recompute = true;
    } else if (words[i] == "--products") {
      out.options.sign_products = choice(words, i, {"dense", "tables"});
    } else if (words[i] == "--working-copy") {
      out.options.working_copy = choice(words, i, {"layer", "step"});
    } else if (words[i].starts_with("-")) {
      throw UsageError("unknown or incomplete option " + words[i]);
    } else {
      out.directories.push_back(words[i]);
    }
  }
  if (out.directories.empty()) throw UsageError("no recording given");
  if (out.options == TrainerOptions()) return out;
  if (out.form.empty()) out.form = "trainer";
  if (out.form != "trainer")
    throw UsageError(to_string(out.options) + " is for the trainer's form, not " + out.form);
  return out;
}

bool replay(const Arguments& arguments) {
  bool all = true;
  for (const std::string& directory : arguments.directories) {
    const Trace trace = load_trace(directory);
    for (const Form& form : forms()) {
      if (!arguments.form.empty() && form.name != arguments.form) continue;
      const std::string reason = form.declines(trace);
      if (!reason.empty()) {
        std::cout << trace.name << ", form " << form.name << ": left out: " << reason << "\n";
        all = all && arguments.form.empty();  // asked for by name, leaving it out is a failure
        continue;
      }
      const bool holds = replay_and_judge(form, trace, std::cout, arguments.options);
      std::cout << trace.name << ", form " << form.name << ": "
                << (holds ? "holds" : "DOES NOT HOLD") << "\n\n";
      all = all && holds;
    }
  }
  return all;
}

}  // namespace
}  // namespace fbi::parity

int main(int count, char** words) {
  at::set_num_threads(1);  // as the recordings were made
  try {
    return fbi::parity::replay(fbi::parity::parse({words + 1, words + count})) ? 0 : 1;
  } catch (const fbi::UsageError& error) {
    std::cerr << error.what()
              << "\nusage: replay_trace DIR... [--form trainer|latent] [--ranks N] [--recompute]\n"
                 "                    [--products dense|tables] [--working-copy layer|step]\n";
    return static_cast<int>(error.exit_code());
  } catch (const fbi::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
