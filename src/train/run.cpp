#include "fbi/train/run.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "fbi/checkpoint/metrics_log.h"
#include "fbi/checkpoint/run_directory.h"
#include "fbi/config/compare.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"
#include "fbi/distributed/agreement.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/ops/device.h"
#include "fbi/ops/sign_products.h"
#include "fbi/train/evaluation.h"
#include "train/data_use.h"
#include "train/environment.h"
#include "train/identity.h"
#include "train/pace_meter.h"
#include "train/run_folder.h"
#include "train/session.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// All that a step takes is resident once an update has written to it.
constexpr std::int64_t kFirstSteps = 2;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The step without whose checkpoint a run has lost some; 0: it may have saved after any step.
std::int64_t first_checkpoint(const config::CheckpointConfig& checkpoint) {
  const auto [few, many] = std::minmax(checkpoint.every_steps, checkpoint.keep_every);
  if (checkpoint.every_seconds > 0) return 0;
  return few > 0 ? few : many;
}

/// What the ranks were asked to do after a step.
struct Requests {
  bool stop = false, save = false;
};

class TrainingRun {
 public:
  TrainingRun(const config::RunConfig& config, const RunOptions& options,
              distributed::Communicator& communicator, RunFolder folder, RunObserver& observer)
      : config_(config),
        options_(options),
        communicator_(communicator),
        observer_(observer),
        folder_(std::move(folder)),
        memory_{0, 0, static_cast<std::int64_t>(resident_bytes()), {}},
        evaluation_(open_evaluation()),
        session_(config, communicator, open_saved_state()),
        pace_(config, session_.student(), session_.teacher(), communicator.size()) {
    distributed::run_together(communicator_, [&] {
      if (folder_.is_writer()) write_records();
    });
  }

  RunOutcome run() {
    try {
      return train();
    } catch (const PeerError& error) {
      throw PeerError(
          concat("after step ", state().step, ", rank ", communicator_.rank(), ": ", error.what(),
                 ". Run again with --resume auto to continue from the last checkpoint."));
    }
  }

 private:
  RunOutcome train() {
    begin();
    memory_.held = session_.held_memory();
    observer_.on_start(config_, state().step);
    while (state().step < config_.train.steps) {
      step();
      const Requests requests = agree();
      if (requests.stop) return stop();
      save_due_ = save_due_ || requests.save || save_due_by_steps();
      // What is saved while steps fail would push out the checkpoints from before.
      if (save_due_ && state().skipped_in_row == 0 && state().step < config_.train.steps)
        try_save();
      if (steps_done_ == options_.profile_steps) write_trace();
    }
    const bool due = save_due_ && state().skipped_in_row == 0;
    if ((config_.checkpoint.at_end || due) && last_saved_step_ != state().step) save();
    write_trace();
    observer_.on_end();
    log::debug(memory_.text());
    log::info("finished: ", state().step, " steps, ", state().tokens, " tokens; ", state().skipped,
              " steps skipped");
    return RunOutcome::kFinished;
  }

  const TrainState& state() { return session_.trainer().state(); }
  Timeline& timeline() { return session_.trainer().timeline(); }

  /// Each rank checks a part, so an error of one is made that of all.
  RunEvaluation open_evaluation() {
    std::optional<RunEvaluation> evaluation;
    distributed::run_together(communicator_, [&] {
      evaluation.emplace(config_, communicator_.rank(), communicator_.size());
    });
    return std::move(*evaluation);
  }

  /// Before anything heavy is loaded; returns what the run reads. Writes nothing into a new folder:
  /// a start that fails for a wrong path must not make it a run.
  Inputs open_saved_state() {
    const auto& paths = folder_.paths();
    if (folder_.is_writer() && folder_.is_continued()) log_file_.emplace(paths.log());
    checkpoint_ = folder_.take_checkpoint();
    Inputs inputs;
    distributed::run_together(communicator_, [&] {
      if (communicator_.rank() != 0) return;
      const auto saved =
          checkpoint_ ? checkpoint_config(*checkpoint_) : saved_run_config(paths.root);
      inputs = check_inputs(checkpoint_.get(), saved, config_, options_.allow_change);
    });
    inputs.teacher = distributed::all_gather_text(communicator_, inputs.teacher.string()).front();
    if (!checkpoint_) initial_weights_ = open_initial_weights(config_, communicator_);
    return inputs;
  }

  /// Once data, teacher and model are there; cuts the metrics back to the checkpoint.
  void write_records() {
    const auto& paths = folder_.paths();
    if (folder_.branches_off()) folder_.write_origin();
    if (!folder_.is_continued()) log_file_.emplace(paths.log());
    write_file(paths.config(), config::to_json(config_));
    write_file(paths.environment(), environment_json(config_, options_.command_line,
                                                     communicator_.device(), pace_.matrix_rates()));
    const std::int64_t step = checkpoint_ ? checkpoint_->manifest().step : 0;
    folder_.set_aside_later_than(step);
    const bool has_history = checkpoint_ && !folder_.branches_off();
    if (!has_history) folder_.set_metrics_aside(first_checkpoint(config_.checkpoint));
    checkpoint::cut_metrics(paths.metrics(), has_history ? step : 0);
    copy_tokenizer(config_, session_.data(), paths.root);
    metrics_.emplace(paths.metrics());
    log::info("device: ", communicator_.device().str(), ", ", at::get_num_threads(),
              " threads, kernels ", kernels::level_name(kernels::chosen_level()));
    log_data();
    for (const auto& [dtype, rate] : pace_.matrix_rates())
      log::info("matrix products in ", dtype, ": ", flops_text(rate), ", measured");
  }

  void log_data() {
    for (const auto& use : data_use(config_, session_.data())) log::info("data: ", use.text);
  }

  void begin() {
    if (checkpoint_) {
      session_.restore(*checkpoint_);
      last_saved_step_ = state().step;
      log::info("continuing from ", checkpoint_->path().string(), ", step ", state().step);
      checkpoint_.reset();
      if (folder_.branches_off()) save();  // so that it no longer needs the other run
    } else {
      session_.start(std::move(initial_weights_));
      log::info("starting at step 0");
    }
    log_teacher_drift();
    timeline().take_seconds();  // no step's
    if (options_.profile_steps > 0) timeline().start_trace();
  }

  void log_teacher_drift() {
    const auto& drift = session_.teacher_drift();
    if (!drift) return;
    char text[128];
    std::snprintf(text, sizeof text,
                  "KL divergence %.3g nats per token, same most likely token for %.1f %% of %lld",
                  drift->divergence, 100 * drift->same_first,
                  static_cast<long long>(drift->tokens));
    log::info("teacher: decoder matrices are fp8; against ",
              c10::toString(session_.teacher()->options().compute_dtype),
              " on the run's first micro-batch: ", text);
  }

  void step() {
    const auto start = Clock::now();
    const double cpu_start = process_cpu_seconds();
    auto metrics = session_.trainer().step();
    const PhaseSeconds phases = timeline().take_seconds();
    Pace pace = pace_.add(seconds_since(start), process_cpu_seconds() - cpu_start, phases,
                          config_.train.steps - metrics.step);
    ++steps_done_;
    pace.memory = measure_memory();
    if (evaluation_.due(metrics.step)) evaluate(metrics);
    keep_lock();
    if (metrics_) metrics_->append(metrics_line(metrics, config_.objective, pace));
    observer_.on_step(metrics, pace);
    if (state().skipped_in_row >= config_.train.max_skipped_in_row) diverged();
  }

  const MemoryUse& measure_memory() {
    memory_.peak_bytes = static_cast<std::int64_t>(peak_resident_bytes());
    memory_.peak_device_bytes = ops::peak_device_bytes(communicator_.device());
    if (steps_done_ == kFirstSteps) log::debug(memory_.text());
    return memory_;
  }

  /// Steps must not be lost because one cannot be evaluated, for want of memory, say.
  void evaluate(StepMetrics& metrics) {
    const auto span = timeline().span(Phase::kEvaluation);
    try {
      metrics.evaluation =
          evaluation_.run(session_.student(), communicator_, [this] { keep_lock(); });
    } catch (const DataError& error) {  // on all ranks
      log::error("step ", metrics.step, " not evaluated, training goes on: ", error.what());
    }
  }

  /// Now and then, and before anything is written: throws when another process has taken the run,
  /// because this one was stopped for long. A file system that does not answer must not end a run
  /// that can go on.
  void keep_lock(std::chrono::seconds at_most_every = std::chrono::seconds(30)) {
    if (Clock::now() - touched_ < at_most_every) return;
    touched_ = Clock::now();
    try {
      folder_.touch_lock();
    } catch (const DiskError& error) {
      log::error("lock not refreshed, training goes on: ", error.what());
    }
  }

  /// trace.json, of other ranks than 0 trace.rank-N.json. A run that can go on goes on without.
  void write_trace() {
    if (!timeline().is_tracing()) return;
    const int rank = communicator_.rank();
    const fs::path path = folder_.paths().root / (rank == 0 ? std::string("trace.json")
                                                            : concat("trace.rank-", rank, ".json"));
    try {
      write_file(path, timeline().finish_trace(rank));
      log::info("wrote ", path.string(), ", ", steps_done_,
                " steps; Perfetto (ui.perfetto.dev) and chrome://tracing show it");
    } catch (const DiskError& error) {
      log::error("trace not written, training goes on: ", error.what());
    }
  }

  /// A signal may reach one rank alone, and clocks differ: all ranks do what any rank was asked to,
  /// at the same step.
  Requests agree() {
    const auto& every = config_.checkpoint.every_seconds;
    const bool time_is_up = every > 0 && seconds_since(saved_at_) >= every;
    at::Tensor asked = at::tensor({stop_requested() ? 1 : 0, time_is_up ? 1 : 0}, at::kInt);
    communicator_.all_reduce(asked, distributed::Reduce::kMax)->wait();
    return {asked[0].item<int>() != 0, asked[1].item<int>() != 0};
  }

  [[noreturn]] void diverged() {
    observer_.on_end();
    const std::int64_t failed = state().skipped_in_row;
    throw DivergedError(concat(
        failed, " steps in a row had a non-finite loss or gradient norm (step ", state().step,
        "). The newest checkpoint from before them: ",
        newest_checkpoint_up_to(state().step - failed),
        ". Look at the data of these steps, or resume with a lower rate: --set optimizer.lr=… "
        "--allow-change optimizer.lr; if the first steps fail again, move that checkpoint away and "
        "resume from the one before it"));
  }

  /// For a message, so a folder that can't be read is no error here.
  std::string newest_checkpoint_up_to(std::int64_t step) {
    try {
      for (const fs::path& folder : formats::list_checkpoints(folder_.paths().checkpoints()))
        if (formats::checkpoint_step(folder) <= step) return folder.string();
      return "none";
    } catch (const CheckpointError& error) {
      return concat("unknown (", error.what(), ")");
    }
  }

  bool save_due_by_steps() {
    const auto due = [&](std::int64_t every) { return every > 0 && state().step % every == 0; };
    return due(config_.checkpoint.every_steps) || due(config_.checkpoint.keep_every);
  }

  void save() {
    const auto span = timeline().span(Phase::kCheckpoint);
    distributed::run_together(communicator_, [&] {
      keep_lock(std::chrono::seconds(0));
      if (metrics_) metrics_->sync();
    });
    const fs::path folder = session_.save(folder_.paths().checkpoints());
    last_saved_step_ = state().step;
    save_due_ = false;
    saved_at_ = Clock::now();
    log::info("saved ", folder.string());
    observer_.on_checkpoint(state().step, folder);
  }

  /// A full disk must not end a run that can go on: the previous checkpoint is intact, and the next
  /// save tries again.
  void try_save() {
    try {
      save();
    } catch (const DiskError& error) {
      saved_at_ = Clock::now();
      save_due_ = false;
      log::error("checkpoint of step ", state().step,
                 " not saved, training goes on: ", error.what());
    }
  }

  RunOutcome stop() {
    if (last_saved_step_ != state().step) save();
    write_trace();
    observer_.on_end();
    log::debug(memory_.text());
    const int signal = stop_requested();
    log::info("stopped by ",
              signal ? concat("signal ", signal) : std::string("a signal to another rank"),
              " at step ", state().step, "; run again with --resume auto to continue");
    return state().step < config_.train.steps ? RunOutcome::kStopped : RunOutcome::kFinished;
  }

  config::RunConfig config_;
  RunOptions options_;
  distributed::Communicator& communicator_;
  RunObserver& observer_;
  RunFolder folder_;
  MemoryUse memory_;                       // before all that it measures
  std::optional<log::FileSink> log_file_;  // rank 0
  // Set by open_saved_state(), until begin() has read them.
  std::unique_ptr<formats::CheckpointReader> checkpoint_;
  std::unique_ptr<formats::ModelSource> initial_weights_;
  RunEvaluation evaluation_;
  Session session_;
  PaceMeter pace_;
  std::optional<MetricsFile> metrics_;  // rank 0
  std::int64_t steps_done_ = 0;         // since this start
  std::int64_t last_saved_step_ = -1;
  bool save_due_ = false;
  Clock::time_point saved_at_ = Clock::now(), touched_ = Clock::now();
};

}  // namespace

std::optional<config::RunConfig> saved_run_config(const fs::path& directory) {
  const fs::path file = checkpoint::RunPaths{directory}.config();
  if (!fs::exists(file)) return std::nullopt;
  try {
    return config::load_run_config(file);
  } catch (const UsageError& error) {
    const auto saved = formats::list_checkpoints(checkpoint::RunPaths{directory}.checkpoints());
    if (!saved.empty())
      throw UsageError(concat(error.what(), "\n", file.string(),
                              " can't be used, but there are checkpoints, which have the "
                              "configuration, too: --run-dir NEW --resume ",
                              saved.front().string(), " continues in a new directory"));
    // Most often a model folder, whose config.json is of another kind.
    throw UsageError(concat("run directory ", directory.string(),
                            " holds no run to continue: choose another one\n", error.what()));
  }
}

std::optional<config::RunConfig> continued_run_config(const fs::path& directory,
                                                      const std::string& resume_text) {
  const auto resume = checkpoint::Resume::from_text(resume_text);
  if (resume.mode == checkpoint::Resume::Mode::kNone) return std::nullopt;
  if (auto saved = saved_run_config(directory)) return saved;
  if (resume.mode == checkpoint::Resume::Mode::kAuto) return std::nullopt;
  return checkpoint_config(formats::CheckpointReader(resume.checkpoint, /*verify_hash=*/false));
}

RunOutcome run_training(config::RunConfig config, RunOptions options,
                        distributed::Communicator& communicator, RunObserver& observer) {
  RunFolder folder(options, communicator);
  const auto* newest = folder.checkpoint();
  keep_sign_products(config, options,
                     newest ? checkpoint_config(*newest) : saved_run_config(options.directory),
                     communicator.device());
  // A finished run that is started again, as the later jobs of a chain do, needs neither data nor
  // teacher.
  if (newest && folder.branches_off()) check_branch(*newest, config.train);
  if (newest && newest->manifest().step >= config.train.steps) {
    const config::RunConfig saved = checkpoint_config(*newest);
    config::RunConfig same_paths = config;
    same_paths.data.paths = saved.data.paths;
    same_paths.teacher.path = saved.teacher.path;
    check_identity(saved, same_paths, newest->manifest().step, options.allow_change);
    log::info("nothing left to do: ", options.directory.string(), " has been trained for ",
              newest->manifest().step, " steps");
    return RunOutcome::kFinished;
  }
  return TrainingRun(config, options, communicator, std::move(folder), observer).run();
}

}  // namespace fbi::train
