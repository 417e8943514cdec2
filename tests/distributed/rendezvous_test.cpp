#include "fbi/distributed/rendezvous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// What a Slurm 22 step of two tasks on one node sees (recorded from a real one).
Environment slurm_task(const std::string& rank, const std::string& tasks) {
  return {{"SLURM_JOB_ID", "4711"},        {"SLURM_STEP_ID", "1"},
          {"SLURM_STEP_NUM_TASKS", tasks}, {"SLURM_NTASKS", tasks},
          {"SLURM_PROCID", rank},          {"SLURM_LOCALID", rank},
          {"SLURM_STEP_NUM_NODES", "1"},   {"SLURM_STEP_NODELIST", "gpu07"},
          {"SLURM_NNODES", "1"},           {"SLURM_NODELIST", "gpu07"}};
}

std::string message_of(const RankFlags& flags, const Environment& environment) {
  try {
    discover_rank(flags, environment);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(DiscoverRank, NothingSaidIsOneRank) {
  const Rendezvous found = discover_rank({}, {{"PATH", "/bin"}, {"RANK", ""}});
  EXPECT_EQ(found.rank, 0);
  EXPECT_EQ(found.world_size, 1);
  EXPECT_EQ(found.local_rank, 0);
  EXPECT_EQ(found.master_addr, "");
  EXPECT_EQ(found.source, "one rank");
}

TEST(DiscoverRank, TorchrunVariables) {
  const Rendezvous found = discover_rank({}, {{"RANK", "5"},
                                              {"WORLD_SIZE", "8"},
                                              {"LOCAL_RANK", "1"},
                                              {"MASTER_ADDR", "node0"},
                                              {"MASTER_PORT", "1234"}});
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.world_size, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.master_addr, "node0");
  EXPECT_EQ(found.master_port, 1234);
  EXPECT_EQ(found.source, "environment");
}

/// Its agent keeps the store when it starts ranks again.
TEST(DiscoverRank, StartsOfTorchrunAreToldApart) {
  Environment environment = {{"RANK", "0"},
                             {"WORLD_SIZE", "1"},
                             {"TORCHELASTIC_RUN_ID", "job"},
                             {"TORCHELASTIC_RESTART_COUNT", "2"},
                             {"TORCHELASTIC_USE_AGENT_STORE", "True"}};
  EXPECT_EQ(discover_rank({}, environment).attempt, "job/2");
  environment["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_EQ(discover_rank({}, environment).attempt, "");
}

TEST(DiscoverRank, FlagsAlone) {
  RankFlags flags;
  flags.rank = 1;
  flags.world_size = 2;
  flags.master_addr = "127.0.0.1";
  const Rendezvous found = discover_rank(flags, {});
  EXPECT_EQ(found.rank, 1);
  EXPECT_EQ(found.local_rank, 1) << "with rank 0 on this machine, all ranks are";
  EXPECT_EQ(found.master_port, 29500);
  EXPECT_EQ(found.source, "flags");
  EXPECT_EQ(discover_rank({.world_size = 1}, {}).world_size, 1);
}

TEST(DiscoverRank, SlurmStep) {
  const Rendezvous found = discover_rank({}, slurm_task("1", "2"));
  EXPECT_EQ(found.rank, 1);
  EXPECT_EQ(found.world_size, 2);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.master_addr, "127.0.0.1");
  EXPECT_EQ(found.master_port, 20000 + (4711 * 7 + 1) % 10000);
  EXPECT_EQ(found.source, "slurm");
}

TEST(DiscoverRank, SlurmOnSeveralNodesMeetsAtTheFirst) {
  Environment environment = slurm_task("9", "16");
  environment["SLURM_LOCALID"] = "1";
  environment["SLURM_STEP_NUM_NODES"] = "4";
  environment["SLURM_STEP_NODELIST"] = "gpu[07-09,12]";
  EXPECT_EQ(discover_rank({}, environment).master_addr, "gpu07");
  environment["MASTER_ADDR"] = "10.0.0.1";
  EXPECT_EQ(discover_rank({}, environment).master_addr, "10.0.0.1");
}

TEST(DiscoverRank, TorchrunInsideASlurmTaskWins) {
  Environment environment = slurm_task("0", "1");
  environment.insert(
      {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "3"}, {"MASTER_ADDR", "localhost"}});
  const Rendezvous found = discover_rank({}, environment);
  EXPECT_EQ(found.rank, 3);
  EXPECT_EQ(found.world_size, 4);
}

TEST(DiscoverRank, WorldSizeExportedInASlurmScriptMustAgree) {
  Environment environment = slurm_task("1", "2");
  environment["WORLD_SIZE"] = "2";
  EXPECT_EQ(discover_rank({}, environment).rank, 1);
  environment["WORLD_SIZE"] = "4";
  EXPECT_THAT(message_of({}, environment),
              AllOf(HasSubstr("WORLD_SIZE=4"), HasSubstr("SLURM_STEP_NUM_TASKS=2"),
                    HasSubstr("SLURM_PROCID=1"), HasSubstr("contradict")));
}

TEST(DiscoverRank, SlurmBatchScriptAndSallocShellAreNoTasks) {
  const Environment shell = {{"SLURM_JOB_ID", "1"}, {"SLURM_NTASKS", "2"}};
  EXPECT_EQ(discover_rank({}, shell).world_size, 1);
  Environment script = shell;
  script.insert({{"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}});
  EXPECT_THAT(message_of({}, script), AllOf(HasSubstr("SLURM_NTASKS=2"), HasSubstr("srun")));
  EXPECT_EQ(discover_rank({.world_size = 1}, script).world_size, 1);
  script["SLURM_NTASKS"] = "1";
  EXPECT_EQ(discover_rank({}, script).world_size, 1);
}

TEST(DiscoverRank, OpenMpi) {
  Environment environment = {{"OMPI_COMM_WORLD_RANK", "2"},
                             {"OMPI_COMM_WORLD_SIZE", "3"},
                             {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
                             {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}};
  const Rendezvous found = discover_rank({}, environment);
  EXPECT_EQ(found.rank, 2);
  EXPECT_EQ(found.world_size, 3);
  EXPECT_EQ(found.master_addr, "127.0.0.1");
  EXPECT_EQ(found.source, "openmpi");
  // What a step of Slurm left in the environment of mpirun is not about its ranks.
  Environment within = slurm_task("0", "1");
  within.insert(environment.begin(), environment.end());
  EXPECT_EQ(discover_rank({}, within).rank, 2);
  EXPECT_EQ(discover_rank({}, within).world_size, 3);
  environment["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  EXPECT_THAT(message_of({}, environment), HasSubstr("MASTER_ADDR"));
}

TEST(DiscoverRank, FlagsThatContradictAreErrorsWithAllValues) {
  RankFlags flags;
  flags.rank = 0;
  flags.world_size = 4;
  EXPECT_THAT(message_of(flags, slurm_task("0", "2")),
              AllOf(HasSubstr("--world-size=4"), HasSubstr("--rank=0"),
                    HasSubstr("SLURM_STEP_NUM_TASKS=2"), HasSubstr("SLURM_PROCID=0")));
  EXPECT_THAT(message_of({.rank = 1}, {{"RANK", "0"}, {"WORLD_SIZE", "2"}}),
              AllOf(HasSubstr("--rank=1"), HasSubstr("RANK=0"), HasSubstr("WORLD_SIZE=2")));
  flags = {};
  flags.master_addr = "a";
  EXPECT_THAT(message_of(flags, {{"MASTER_ADDR", "b"}}),
              AllOf(HasSubstr("--master-addr=a"), HasSubstr("MASTER_ADDR=b")));
  flags = {};
  flags.master_port = 1;
  EXPECT_THAT(message_of(flags, {{"MASTER_PORT", "2"}}),
              AllOf(HasSubstr("--master-port=1"), HasSubstr("MASTER_PORT=2")));
}

TEST(DiscoverRank, FlagsThatAgreeAreFine) {
  EXPECT_EQ(discover_rank({.world_size = 2}, slurm_task("1", "2")).rank, 1);
}

TEST(DiscoverRank, WhatIsMissingIsNamed) {
  EXPECT_THAT(message_of({}, {{"WORLD_SIZE", "4"}}),
              AllOf(HasSubstr("WORLD_SIZE=4"), HasSubstr("rank is not known")));
  EXPECT_THAT(message_of({}, {{"RANK", "1"}}),
              AllOf(HasSubstr("RANK=1"), HasSubstr("world size is not known")));
  EXPECT_THAT(message_of({}, {{"RANK", "1"}, {"WORLD_SIZE", "2"}}), HasSubstr("MASTER_ADDR"));
  EXPECT_THAT(message_of({}, {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}}),
              HasSubstr("LOCAL_RANK"));
}

TEST(DiscoverRank, ValuesOutOfRangeOrNoNumbersAreNamed) {
  for (const char* text : {"x", "-1", "1.5", "2 ", "99999999999999999999"}) {
    EXPECT_THAT(message_of({}, {{"RANK", text}, {"WORLD_SIZE", "2"}}),
                AllOf(HasSubstr("RANK"), HasSubstr(text)));
  }
  EXPECT_THAT(message_of({}, {{"RANK", "0"}, {"WORLD_SIZE", "0"}}), HasSubstr("WORLD_SIZE"));
  EXPECT_THAT(message_of({}, {{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "localhost"}}),
              AllOf(HasSubstr("[0, 2)"), HasSubstr("RANK=2")));
  EXPECT_THAT(message_of({}, {{"MASTER_PORT", "65536"}}), HasSubstr("65536"));
  EXPECT_THAT(message_of({.world_size = -2}, {}), HasSubstr("--world-size"));
}

TEST(FirstHost, SlurmNodeLists) {
  EXPECT_EQ(first_host("vm"), "vm");
  EXPECT_EQ(first_host("a,b[1-2]"), "a");
  EXPECT_EQ(first_host("gpu[03-07,12],login1"), "gpu03");
  EXPECT_EQ(first_host("gpu[3]-ib"), "gpu3-ib");
  EXPECT_EQ(first_host("rack[1,2]node[05-08]"), "rack1node05");
  for (const char* bad : {"", ",a", "gpu[", "gpu[]", "gpu[-3]", "(null)", "a b"}) {
    EXPECT_THROW(first_host(bad), UsageError) << bad;
  }
}

TEST(CurrentEnvironment, HoldsTheVariablesOfThisProcess) {
  setenv("FBI_TEST_VARIABLE", "a=b", 1);
  EXPECT_EQ(current_environment().at("FBI_TEST_VARIABLE"), "a=b");
}

}  // namespace
}  // namespace fbi::distributed
