#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Batch scripts for Slurm, made from the one in scripts/slurm/pretrain.sbatch.
namespace fbi::cli {

struct SlurmJob {
  std::string name, config, run_dir;
  std::string program =
      "fbi-llm";  ///< words before the verb, e.g. "apptainer exec --nv fbi.sif fbi-llm"
  std::vector<std::string> train_options;  ///< more words after `fbi-llm train`
  std::int64_t nodes = 1, ranks_per_node = 1, cpus_per_rank = 8;
  std::int64_t gpus_per_node = 0;  ///< 0: ranks on CPUs
  std::string time = "1-00:00:00";
  std::int64_t signal_seconds = 180;        ///< before the time limit
  std::string batch;                        ///< one line for people on how the batch divides
  std::vector<std::string> sbatch_options;  ///< further ones, e.g. "partition=gpu"
};

/// The whole script.
std::string sbatch_text(const SlurmJob& job);

/// Seconds of one of Slurm's forms of a time limit: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S; -1
/// for "UNLIMITED". UsageError for anything else.
std::int64_t slurm_time_seconds(const std::string& text);

/// A word as the shell reads it back.
std::string shell_word(const std::string& text);

extern const char* const kPretrainScript;  ///< the text of scripts/slurm/pretrain.sbatch

}  // namespace fbi::cli
