#include "fbi/checkpoint/run_directory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/temporary.h"
#include "fbi/checkpoint/metrics_log.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"
#include "fbi/core/temporary.h"
#include "fbi/formats/checkpoint_reader.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;

enum class Content { kEmpty, kRun, kForeign };

/// Names that a run creates itself, so that one killed before it wrote its configuration counts as
/// a run, too.
bool belongs_to_run(const fs::path& entry) {
  const RunPaths names;  // without a root: their names
  std::string name = entry.filename().string();
  name.resize(std::min(name.find(".tmp"), name.size()));  // DurableFile's, of a killed process
  const fs::path known[] = {names.config(), names.environment(), names.metrics(),
                            names.log(),    names.checkpoints(), names.origin()};
  return std::ranges::count(known, fs::path(name)) > 0;
}

/// With the run locked: nobody writes them any more, on whichever machine they come from.
void remove_temporaries_of_run(const fs::path& root) {
  std::vector<fs::path> left;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(root, ignored))
    if (entry.path().filename().string().find(".tmp") != std::string::npos && belongs_to_run(entry))
      left.push_back(entry.path());
  for (const fs::path& path : left) fs::remove(path, ignored);
}

Content content_of(const RunPaths& paths) {
  std::error_code error;
  const fs::file_status status = fs::status(paths.root, error);
  if (!fs::exists(status)) return Content::kEmpty;
  if (!fs::is_directory(status)) {
    throw UsageError(concat("run directory ", paths.root.string(), " is not a folder"));
  }
  Content content = Content::kEmpty;
  for (const auto& entry : fs::directory_iterator(paths.root, error)) {
    if (entry.path().filename() == ".lock") continue;
    if (!belongs_to_run(entry.path()) && !fs::exists(paths.config())) return Content::kForeign;
    content = Content::kRun;
  }
  if (error) {
    throw UsageError(
        concat("run directory ", paths.root.string(), " can't be read: ", error.message()));
  }
  return content;
}

/// Renames it, where it is, to the first of "<begin>1<end>", "<begin>2<end>", … that is free.
fs::path set_aside(const fs::path& path, const std::string& begin, const std::string& end) {
  fs::path aside;
  for (int n = 1; aside.empty() || fs::exists(aside); ++n)
    aside = path.parent_path() / concat(begin, n, end);
  rename_path(path, aside);
  return aside;
}

bool same_folder(const fs::path& one, const fs::path& other) {
  std::error_code error;
  return fs::equivalent(one, other, error) && !error;
}

}  // namespace

bool is_of_run(const RunPaths& paths, const fs::path& checkpoint) {
  return same_folder(plain_path(checkpoint).parent_path(), paths.checkpoints());
}

namespace {

/// A run continues from one of its own checkpoints only if that is its newest; later ones would
/// belong to another history than the one that now follows. One that has none yet may begin
/// from any.
void require_newest_of_run(const RunPaths& paths, const fs::path& checkpoint) {
  const std::string run = paths.root.string();
  const std::vector<fs::path> all = formats::list_checkpoints(paths.checkpoints());
  if (all.empty()) return;
  if (!is_of_run(paths, checkpoint)) {
    throw UsageError(
        concat("run directory ", run, " holds another run than ", checkpoint.string(),
               ": continue in a new run directory, or continue this one by --resume auto"));
  }
  if (!same_folder(all.front(), checkpoint)) {
    throw UsageError(concat("run directory ", run, " holds later checkpoints than ",
                            checkpoint.string(), " (", all.front().filename().string(),
                            "): move them away, or continue in a new run directory"));
  }
}

fs::path read_origin(const RunPaths& paths) {
  const std::string text = read_file(paths.origin());
  const fs::path origin = text.substr(0, text.find('\n'));
  if (!fs::exists(origin))
    throw CheckpointError(concat(
        paths.root.string(), " has no checkpoint of its own, and ", origin.string(),
        ", from which it branched off (", paths.origin().filename().string(),
        "), is not there: put that back, or give another checkpoint of that run to --resume"));
  return origin;
}

void require_suitable(const RunPaths& paths, const Resume& resume) {
  const Content content = content_of(paths);
  if (content == Content::kEmpty) return;
  const std::string run = paths.root.string();
  if (resume.mode == Resume::Mode::kNone) {
    throw UsageError(concat("run directory ", run,
                            " is not empty: continue it by --resume auto, or choose another one"));
  }
  if (content == Content::kForeign) {
    throw UsageError(concat("run directory ", run,
                            " is not empty and holds no run (no config.json): choose another one"));
  }
  if (resume.mode == Resume::Mode::kPath) require_newest_of_run(paths, resume.checkpoint);
}

}  // namespace

Resume Resume::from_text(const std::string& text) {
  if (text.empty()) {
    throw UsageError("--resume: expected none, auto or a checkpoint folder, found nothing");
  }
  if (text == "none") return {};
  if (text == "auto") return {Mode::kAuto, {}};
  std::error_code error;  // a file server that does not answer is another matter
  if (!fs::exists(text, error) && !error)
    throw UsageError(concat("--resume: expected none, auto or a checkpoint folder, found '", text,
                            "', which does not exist"));
  if (const auto all = formats::list_checkpoints(RunPaths{text}.checkpoints()); !all.empty())
    throw UsageError(concat("--resume: ", text, " is a run; name one of its checkpoints, such as ",
                            all.front().string()));
  return {Mode::kPath, text};
}

void require_usable(const RunPaths& paths, const Resume& resume) {
  require_suitable(paths, resume);
  const fs::path existing = nearest_existing(paths.root);
  std::error_code ignored;
  if (!fs::is_directory(existing, ignored))
    throw DiskError(
        concat("run directory ", paths.root.string(), ": ", existing.string(), " is not a folder"));
  if (access(existing.c_str(), W_OK | X_OK) != 0)
    throw DiskError(concat("run directory ", paths.root.string(), ": ", existing.string(),
                           " can't be written: ", std::strerror(errno)));
}

std::vector<fs::path> checkpoints_to_try(const RunPaths& paths, const Resume& resume) {
  switch (resume.mode) {
    case Resume::Mode::kNone:
      return {};
    case Resume::Mode::kPath:
      return {resume.checkpoint};
    case Resume::Mode::kAuto: {
      auto own = formats::list_checkpoints(paths.checkpoints());
      if (own.empty() && fs::exists(paths.origin())) own.push_back(read_origin(paths));
      return own;
    }
  }
  return {};
}

RunDirectory::RunDirectory(RunPaths paths, Resume resume, bool is_continued, RunLock lock)
    : paths_(std::move(paths)),
      resume_(std::move(resume)),
      is_continued_(is_continued),
      lock_(std::move(lock)) {}

RunDirectory RunDirectory::create_or_resume(const fs::path& directory, const Resume& resume) {
  const RunPaths paths{directory};
  require_suitable(paths, resume);
  create_folder(paths.root);
  RunLock lock(paths.root);
  // Another process may have used the folder before the lock was ours.
  require_suitable(paths, resume);
  const bool is_continued = content_of(paths) == Content::kRun;
  if (is_continued) {
    remove_temporaries(paths.checkpoints());
    remove_temporaries_of_run(paths.root);
  }
  return RunDirectory(paths, resume, is_continued, std::move(lock));
}

bool RunDirectory::branches_off() const {
  const auto all = checkpoints_to_try();
  return !all.empty() && !is_of_run(paths_, all.front());
}

void RunDirectory::write_origin() const {
  write_file(paths_.origin(), fs::absolute(checkpoints_to_try().front()).string() + "\n");
}

std::vector<fs::path> RunDirectory::checkpoints_to_try() const {
  return checkpoint::checkpoints_to_try(paths_, resume_);
}

void RunDirectory::set_aside_later_than(std::int64_t step) const {
  for (const fs::path& folder : formats::list_checkpoints(paths_.checkpoints())) {
    if (formats::checkpoint_step(folder) <= step) return;
    const std::string name = folder.filename().string();
    const fs::path aside = set_aside(folder, "passed-over-", "-" + name);
    log::warn("the run goes on from step ", step, "; ", name, " is kept as ", aside.string());
  }
}

void RunDirectory::set_metrics_aside(std::int64_t first_checkpoint) const {
  const auto last = last_step(paths_.metrics());
  if (!last || *last <= first_checkpoint) return;
  const fs::path aside = set_aside(paths_.metrics(), "metrics-before-restart-", ".jsonl");
  log::warn("the run had reached step ", *last, ", but there is no checkpoint in ",
            paths_.checkpoints().string(), ", so it begins again; its metrics are kept as ",
            aside.filename().string(),
            ". If there were some that have been moved away, stop, put them back, and resume");
}

}  // namespace fbi::checkpoint
