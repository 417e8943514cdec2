// replay_trace DIR... [--form trainer|latent] [--ranks N]
//
// Replays recordings of the published training loop and compares every recorded quantity. Without
// --form all forms run, each where it can. With --ranks the trainer's form alone, on N ranks
// (threads). Exit status: 0 everything holds, 1 something does not, 2 wrong usage, 3 unreadable
// recording.

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
  int ranks = 1;
};

Arguments parse(const std::vector<std::string>& words) {
  Arguments out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--form" && i + 1 < words.size()) {
      out.form = words[++i];
    } else if (words[i].starts_with("--form=")) {
      out.form = words[i].substr(7);
    } else if (words[i] == "--ranks" && i + 1 < words.size()) {
      out.ranks = std::atoi(words[++i].c_str());
      if (out.ranks < 1) throw UsageError("--ranks: expected a number above 0, found " + words[i]);
    } else if (words[i].starts_with("-")) {
      throw UsageError("unknown or incomplete option " + words[i]);
    } else {
      out.directories.push_back(words[i]);
    }
  }
  if (out.directories.empty()) throw UsageError("no recording given");
  if (out.ranks > 1 && out.form.empty()) out.form = "trainer";
  if (out.ranks > 1 && out.form != "trainer") throw UsageError("--ranks is for the trainer's form");
  const auto named = [&](const Form& form) { return form.name == out.form; };
  if (!out.form.empty() && std::ranges::none_of(forms(), named))
    throw UsageError("unknown form " + out.form);
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
      const bool holds = replay_and_judge(form, trace, std::cout, arguments.ranks);
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
              << "\nusage: replay_trace DIR... [--form trainer|latent] [--ranks N]\n";
    return static_cast<int>(error.exit_code());
  } catch (const fbi::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
