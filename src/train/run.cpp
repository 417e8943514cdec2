#include "fbi/train/run.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "fbi/checkpoint/metrics_log.h"
#include "fbi/config/compare.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"
#include "fbi/distributed/agreement.h"
#include "fbi/ops/device.h"
#include "fbi/ops/sign_products.h"
#include "fbi/train/evaluation.h"
#include "train/environment.h"
#include "train/pace_meter.h"
#include "train/run_folder.h"
#include "train/session.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kFirstSteps =
    2;  // all that a step takes is resident once an update has written to it

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Identity fields must be those of the saved run, except the ones that the user allows by name.
void check_identity(const config::RunConfig& saved, const config::RunConfig& current,
                    const std::vector<std::string>& allowed) {
  std::string refused;
  for (const auto& difference : config::identity_differences(saved, current)) {
    const std::string text =
        concat(difference.key, ": the run has ", difference.saved, ", now ", difference.current);
    if (std::find(allowed.begin(), allowed.end(), difference.key) != allowed.end())
      log::warn("allowed change of ", text);
    else
      refused += "\n  " + text;
  }
  if (!refused.empty())
    throw UsageError(
        concat("the configuration differs from that of the run to be continued:", refused,
               "\nUse the run's own values, another --run-dir, or --allow-change KEY for a change "
               "that is meant."));
}

/// What the ranks were asked to do after a step.
struct Requests {
  bool stop = false, save = false;
};

/// auto means what it meant when the run began: another processor must not change the arithmetic
/// unseen. A GPU has no tables: there a run of a CPU goes on with dense products, and says so.
/// `saved`: of the run that is continued, if any.
void keep_sign_products(config::RunConfig& config, RunOptions& options,
                        const std::optional<config::RunConfig>& saved, at::Device device) {
  std::string& products = config.train.sign_products;
  if (products != "auto") return;
  const auto dtype =
      config.train.precision == config::Precision::kFp32 ? at::kFloat : at::kBFloat16;
  const auto chosen = ops::choose_sign_products(products, device, dtype, config.model.hidden_size);
  products = chosen == ops::SignProducts::kDense ? "dense" : "tables";
  if (!saved) return;
  if (saved->train.sign_products == "tables" && !device.is_cpu())
    options.allow_change.push_back("train.sign_products");
  else
    products = saved->train.sign_products;
}

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
        evaluation_(config, communicator),
        session_((open_saved_state(), config), communicator),
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
      if ((requests.save || save_due_by_steps()) && state().step < config_.train.steps) try_save();
      if (steps_done_ == options_.profile_steps) write_trace();
    }
    if (config_.checkpoint.at_end && last_saved_step_ != state().step) save();
    write_trace();
    observer_.on_end();
    log::debug(memory_.text());
    log::info("finished: ", state().step, " steps, ", state().tokens, " tokens; ", state().skipped,
              " steps skipped");
    return RunOutcome::kFinished;
  }

  const TrainState& state() { return session_.trainer().state(); }
  Timeline& timeline() { return session_.trainer().timeline(); }

  /// Before anything heavy is loaded. Writes nothing into a new folder: a start that fails for a
  /// wrong path must not make it a run.
  void open_saved_state() {
    const auto& paths = folder_.paths();
    if (folder_.is_writer() && folder_.is_continued()) log_file_.emplace(paths.log());
    checkpoint_ = folder_.take_checkpoint();
    if (checkpoint_)
      return check_identity(checkpoint_config(*checkpoint_), config_, options_.allow_change);
    if (const auto saved = saved_run_config(paths.root))
      check_identity(*saved, config_, options_.allow_change);
    initial_weights_ = open_initial_weights(config_);
  }

  /// Once data, teacher and model are there; cuts the metrics back to the checkpoint.
  void write_records() {
    const auto& paths = folder_.paths();
    if (!folder_.is_continued()) log_file_.emplace(paths.log());
    write_file(paths.config(), config::to_json(config_));
    write_file(paths.environment(),
               environment_json(config_, options_.command_line, pace_.matrix_rates()));
    checkpoint::cut_metrics(paths.metrics(), checkpoint_ ? checkpoint_->manifest().step : 0);
    copy_tokenizer(config_, paths.root);
    metrics_.emplace(paths.metrics());
    for (const auto& [dtype, rate] : pace_.matrix_rates())
      log::info("matrix products in ", dtype, ": ", flops_text(rate), ", measured");
  }

  void begin() {
    if (checkpoint_) {
      session_.restore(*checkpoint_);
      last_saved_step_ = state().step;
      log::info("continuing from ", checkpoint_->path().string(), ", step ", state().step);
      checkpoint_.reset();
    } else {
      session_.start(std::move(initial_weights_));
      log::info("starting at step 0");
    }
    log_teacher_drift();
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
    if (metrics_) metrics_->append(metrics_line(metrics, config_.objective, pace));
    observer_.on_step(metrics, pace);
    if (seconds_since(touched_) > 30) {
      folder_.touch_lock();
      touched_ = Clock::now();
    }
    if (state().skipped_in_row >= config_.train.max_skipped_in_row) diverged();
  }

  const MemoryUse& measure_memory() {
    memory_.peak_bytes = static_cast<std::int64_t>(peak_resident_bytes());
    memory_.peak_device_bytes = ops::peak_device_bytes(communicator_.device());
    if (steps_done_ == kFirstSteps) log::debug(memory_.text());
    return memory_;
  }

  void evaluate(StepMetrics& metrics) {
    const auto span = timeline().span(Phase::kEvaluation);
    metrics.evaluation = evaluation_.run(session_.student());
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
    const auto last = formats::list_checkpoints(folder_.paths().checkpoints());
    throw DivergedError(concat(
        state().skipped_in_row, " steps in a row had a non-finite loss or gradient norm (step ",
        state().step,
        "). Last good checkpoint: ", last.empty() ? std::string("none") : last.front().string(),
        ". Look at the data of these steps, or resume with a lower rate: --set optimizer.lr=… "
        "--allow-change optimizer.lr"));
  }

  bool save_due_by_steps() {
    const auto every = config_.checkpoint.every_steps;
    return every > 0 && state().step % every == 0;
  }

  void save() {
    const auto span = timeline().span(Phase::kCheckpoint);
    distributed::run_together(communicator_, [&] {
      if (metrics_) metrics_->sync();
    });
    const fs::path folder = session_.save(folder_.paths().checkpoints());
    last_saved_step_ = state().step;
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
  std::unique_ptr<formats::CheckpointReader>
      checkpoint_;  // set by open_saved_state(), until begin() has read it
  std::unique_ptr<nn::WeightSource>
      initial_weights_;  // set by open_saved_state(), until begin() has loaded it
  RunEvaluation evaluation_;
  Session session_;
  PaceMeter pace_;
  std::optional<MetricsFile> metrics_;  // rank 0
  std::int64_t steps_done_ = 0;         // since this start
  std::int64_t last_saved_step_ = -1;
  Clock::time_point saved_at_ = Clock::now(), touched_ = Clock::now();
};

}  // namespace

std::optional<config::RunConfig> saved_run_config(const fs::path& directory) {
  const fs::path file = directory / "config.json";
  if (!fs::exists(file)) return std::nullopt;
  try {
    return config::load_run_config(file);
  } catch (
      const UsageError& error) {  // most often a model folder, whose config.json is of another kind
    throw UsageError(concat("run directory ", directory.string(),
                            " holds no run to continue: choose another one\n", error.what()));
  }
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
  if (newest && newest->manifest().step >= config.train.steps) {
    check_identity(checkpoint_config(*newest), config, options.allow_change);
    log::info("nothing left to do: ", options.directory.string(), " has been trained for ",
              newest->manifest().step, " steps");
    return RunOutcome::kFinished;
  }
  return TrainingRun(config, options, communicator, std::move(folder), observer).run();
}

}  // namespace fbi::train
