// Texts that Slurm and the shell read, and what fbi-llm slurm refuses.
#include "cli/slurm.h"

#include <gtest/gtest.h>

#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::cli {
namespace {

TEST(SlurmTime, AllFormsOfALimit) {
  EXPECT_EQ(slurm_time_seconds("90"), 90 * 60);
  EXPECT_EQ(slurm_time_seconds("5:30"), 330);
  EXPECT_EQ(slurm_time_seconds("12:00:01"), 12 * 3600 + 1);
  EXPECT_EQ(slurm_time_seconds("2-3"), 51 * 3600);
  EXPECT_EQ(slurm_time_seconds("1-0:30"), 86400 + 1800);
  EXPECT_EQ(slurm_time_seconds("1-02:03:04"), 86400 + 2 * 3600 + 3 * 60 + 4);
  EXPECT_EQ(slurm_time_seconds("UNLIMITED"), -1);
  EXPECT_EQ(slurm_time_seconds("INFINITE"), -1);
}

TEST(SlurmTime, OtherTextIsRefused) {
  for (const char* text : {"", "soon", "-1", "1:2:3:4", "1d", "1-", "1-2:3:4:5", "1.5"})
    test::expect_error<UsageError>([&] { (void)slurm_time_seconds(text); },
                                   "--time: expected minutes");
}

TEST(ShellWord, IsQuotedWhereTheShellWouldChangeIt) {
  EXPECT_EQ(shell_word("train.lr=2e-4"), "train.lr=2e-4");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("$HOME"), "'$HOME'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
}

void expect_job_refused(std::vector<std::string> words, const std::string& part) {
  words.insert(words.begin(), {"--config", FBI_SOURCE_DIR "/configs/130m.json", "--nodes", "1"});
  const Verb verb = slurm_verb();
  test::expect_error<UsageError>([&] { (void)verb.run(parse_arguments(verb, words)); }, part);
}

TEST(Slurm, RefusesWhatCannotRun) {
  const auto with_gpus = [](std::vector<std::string> words, const std::string& part) {
    words.insert(words.begin(), {"--gpus-per-node", "4"});
    expect_job_refused(words, part);
  };
  expect_job_refused({}, "needs --preset NAME, or: --gpus-per-node");
  expect_job_refused({"--preset", "8b"}, "--preset: expected 130m, 1.3b, 7b or 13b, found '8b'");
  expect_job_refused({"--gpus-per-node", "0"}, "say how many by --ranks-per-node");
  expect_job_refused({"--gpus-per-node", "-1"}, "--gpus-per-node: expected 0 to 1024, found -1");
  with_gpus({"--ranks-per-node", "2"}, "each GPU serves one rank");
  with_gpus({"--set", "train.micro_batch=33"}, "train.global_batch = 1024");
  with_gpus({"--set", "train.micro_bath=33"}, "did you mean train.micro_batch?");
  with_gpus({"--time", "soon"}, "--time: expected minutes");
  with_gpus({"--time", "4"}, "--time 4: expected more than the 180 seconds");
  with_gpus({"--sbatch", "nodes=3"}, "--sbatch nodes=3: the script sets nodes already");
  with_gpus({"--sbatch", "wrap=a b"}, "--sbatch: expected an option of sbatch like partition=gpu");
  with_gpus({"--job-name", "a b"}, "--job-name: expected letters");
  with_gpus({"--run-dir", "a\nb"}, "cannot stand in a batch script");
  with_gpus({"--chain", "1"}, "--chain: expected 2 to 10000, found 1");
}

}  // namespace
}  // namespace fbi::cli
