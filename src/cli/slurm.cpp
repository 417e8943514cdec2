#include "cli/slurm.h"

#include <algorithm>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

/// The lines of the script, changed one by one. A line that is not there is an error of this
/// program.
class Script {
 public:
  explicit Script(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) lines_.push_back(line);
  }

  /// The one line that begins with `start`.
  void replace(const std::string& start, const std::string& line) { *find(start) = line; }
  void set_option(const std::string& name, const std::string& value) {
    replace(option(name), option(name) + value);
  }
  /// name=${VARIABLE:-value}
  void set_variable(const std::string& name, const std::string& value) {
    std::string& line = *find(name + "=${");
    line = line.substr(0, line.find(":-") + 2) + shell_word(value) + "}";
  }
  void remove_option(const std::string& name) { lines_.erase(find(option(name))); }

  bool has_option(const std::string& name) const {
    return std::any_of(lines_.begin(), lines_.end(),
                       [&](const auto& line) { return line.starts_with(option(name)); });
  }
  /// After the last one.
  void add_option(const std::string& text) {
    const auto last = std::find_if(lines_.rbegin(), lines_.rend(),
                                   [](const auto& line) { return line.starts_with("#SBATCH "); });
    lines_.insert(last.base(), "#SBATCH --" + text);
  }

  std::string text() const {
    std::string result;
    for (const auto& line : lines_) result += line + "\n";
    return result;
  }

 private:
  static std::string option(const std::string& name) { return "#SBATCH --" + name + "="; }

  std::vector<std::string>::iterator find(const std::string& start) {
    const auto found = std::find_if(lines_.begin(), lines_.end(),
                                    [&](const auto& line) { return line.starts_with(start); });
    if (found == lines_.end())
      throw std::logic_error(concat("pretrain.sbatch has no line '", start, "'"));
    return found;
  }

  std::vector<std::string> lines_;
};

void add_further_options(Script& script, const std::vector<std::string>& options) {
  for (const auto& given : options) {
    const std::string text = given.substr(std::min(given.find_first_not_of('-'), given.size()));
    if (!std::regex_match(text, std::regex(R"([a-z][a-z-]*(=[^\s"'\\]+)?)")))
      throw UsageError(
          concat("--sbatch: expected an option of sbatch like partition=gpu, found '", given, "'"));
    const std::string name = text.substr(0, text.find('='));
    if (script.has_option(name))
      throw UsageError(
          concat("--sbatch ", given, ": the script sets ", name,
                 " already; use the option of fbi-llm slurm, or one of sbatch when you submit it"));
    script.add_option(text);
  }
}

}  // namespace

std::string shell_word(const std::string& text) {
  static const std::regex plain(R"([A-Za-z0-9_@%+=:,./-]+)");
  if (std::regex_match(text, plain)) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? "'\\''" : std::string(1, c);
  return result + "'";
}

std::int64_t slurm_time_seconds(const std::string& text) {
  if (text == "UNLIMITED" || text == "INFINITE") return -1;
  static const std::regex days(R"((\d{1,5})-(\d{1,5})(?::(\d{1,5}))?(?::(\d{1,5}))?)"),
      minutes(R"((\d{1,9})(?::(\d{1,5}))?)"), hours(R"((\d{1,5}):(\d{1,5}):(\d{1,5}))");
  std::smatch found;
  const auto part = [&](std::size_t i) -> std::int64_t {
    return found[i].matched ? std::stoll(found[i].str()) : 0;
  };
  if (std::regex_match(text, found, days))
    return 86400 * part(1) + 3600 * part(2) + 60 * part(3) + part(4);
  if (std::regex_match(text, found, hours)) return 3600 * part(1) + 60 * part(2) + part(3);
  if (std::regex_match(text, found, minutes)) return 60 * part(1) + part(2);
  throw UsageError(
      concat("--time: expected minutes, H:M:S, D-H:M:S or UNLIMITED, found '", text, "'"));
}

std::string sbatch_text(const SlurmJob& job) {
  Script script(kPretrainScript);
  script.replace("# 4 ranks on 1 node:", "# " + job.batch);
  script.set_option("job-name", job.name);
  script.set_option("nodes", std::to_string(job.nodes));
  script.set_option("ntasks-per-node", std::to_string(job.ranks_per_node));
  if (job.gpus_per_node > 0)
    script.set_option("gpus-per-node", std::to_string(job.gpus_per_node));
  else
    script.remove_option("gpus-per-node");
  script.set_option("cpus-per-task", std::to_string(job.cpus_per_rank));
  script.set_option("time", job.time);
  script.set_option("signal", concat("USR2@", job.signal_seconds));
  add_further_options(script, job.sbatch_options);
  script.set_variable("config", job.config);
  script.set_variable("run_dir", job.run_dir);
  script.set_variable("program", job.program);
  std::vector<std::string> words;
  for (const auto& word : job.train_options) words.push_back(shell_word(word));
  script.replace("options=(", "options=(" + join(words, " ") + ")");
  return script.text();
}

}  // namespace fbi::cli
