#include "fbi/distributed/rendezvous.h"

#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

constexpr int kDefaultPort = 29500;
constexpr std::int64_t kMaxRanks = 1 << 20;

/// A number together with the variable or flag it came from.
struct Stated {
  std::string name;
  std::int64_t value = 0;
  std::string text() const { return concat(name, "=", value); }
};

/// What one source says. Only the first source that tells rank and size decides.
struct Claim {
  std::string source;
  std::optional<Stated> rank, size, local_rank;
  bool complete() const { return rank && size; }
  bool empty() const { return !rank && !size && !local_rank; }
};

const std::string* find(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() || found->second.empty() ? nullptr : &found->second;
}

std::int64_t parse(const std::string& name, const std::string& text, std::int64_t low,
                   std::int64_t high) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end || value < low || value > high) {
    throw UsageError(
        concat(name, ": expected a whole number in [", low, ", ", high, "], found \"", text, "\""));
  }
  return value;
}

std::optional<Stated> stated(const Environment& environment, const std::string& name,
                             std::int64_t low) {
  const std::string* text = find(environment, name);
  if (!text) return std::nullopt;
  return Stated{name, parse(name, *text, low, kMaxRanks)};
}

std::optional<Stated> stated(const std::string& flag, std::optional<int> value, std::int64_t low) {
  if (!value) return std::nullopt;
  return Stated{flag, parse(flag, std::to_string(*value), low, kMaxRanks)};
}

Claim from_flags(const RankFlags& flags) {
  return {"flags", stated("--rank", flags.rank, 0), stated("--world-size", flags.world_size, 1),
          stated("--local-rank", flags.local_rank, 0)};
}

Claim from_variables(const Environment& environment, const std::string& source,
                     const std::string& rank, const std::string& size, const std::string& local) {
  return {source, stated(environment, rank, 0), stated(environment, size, 1),
          stated(environment, local, 0)};
}

/// Slurm also sets SLURM_PROCID=0 and SLURM_NTASKS in a batch script itself, which is no task of a
/// step; a shell of salloc has no SLURM_PROCID.
bool is_batch_script(const Environment& environment) {
  return find(environment, "SLURM_JOB_ID") && find(environment, "SLURM_PROCID") &&
         !find(environment, "SLURM_STEP_ID");
}

Claim from_slurm(const Environment& environment) {
  if (!find(environment, "SLURM_PROCID") || is_batch_script(environment))
    return {"slurm", {}, {}, {}};
  const bool step = find(environment, "SLURM_STEP_NUM_TASKS");
  return from_variables(environment, "slurm", "SLURM_PROCID",
                        step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", "SLURM_LOCALID");
}

/// The sources that count: flags if any, then down to the first one of the environment that tells
/// rank and size.
std::vector<Claim> collect_claims(const RankFlags& flags, const Environment& environment) {
  std::vector<Claim> claims;
  if (Claim claim = from_flags(flags); !claim.empty()) claims.push_back(std::move(claim));
  // mpirun within a step of Slurm leaves the step's variables as they are.
  Claim sources[] = {from_variables(environment, "environment", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
                     from_variables(environment, "openmpi", "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
                     from_slurm(environment)};
  for (Claim& claim : sources) {
    if (claim.empty()) continue;
    claims.push_back(std::move(claim));
    if (claims.back().complete()) break;
  }
  return claims;
}

std::string list_values(const std::vector<Claim>& claims) {
  std::string text;
  for (const Claim& claim : claims) {
    for (const auto* value : {&claim.rank, &claim.size, &claim.local_rank}) {
      if (*value) text += (text.empty() ? "" : ", ") + (*value)->text();
    }
  }
  return text;
}

/// The value of one field that all claims agree on.
std::optional<int> agreed(const std::vector<Claim>& claims, std::optional<Stated> Claim::*field,
                          const char* what) {
  const Stated* first = nullptr;
  for (const Claim& claim : claims) {
    if (!(claim.*field)) continue;
    const Stated& other = *(claim.*field);
    if (first && first->value != other.value) {
      throw UsageError(concat(what, ": ", first->text(), " and ", other.text(),
                              " contradict each other (all values: ", list_values(claims),
                              "); leave one of them out"));
    }
    if (!first) first = &other;
  }
  if (!first) return std::nullopt;
  return static_cast<int>(first->value);
}

std::optional<std::string> stated_address(const RankFlags& flags, const Environment& environment) {
  const std::string* variable = find(environment, "MASTER_ADDR");
  if (flags.master_addr && variable && *flags.master_addr != *variable) {
    throw UsageError(concat("address of rank 0: --master-addr=", *flags.master_addr,
                            " and MASTER_ADDR=", *variable, " contradict each other"));
  }
  if (flags.master_addr) return flags.master_addr;
  return variable ? std::optional(*variable) : std::nullopt;
}

std::optional<int> stated_port(const RankFlags& flags, const Environment& environment) {
  std::optional<std::int64_t> flag, variable;
  if (flags.master_port) {
    flag = parse("--master-port", std::to_string(*flags.master_port), 1, 65535);
  }
  if (const std::string* text = find(environment, "MASTER_PORT")) {
    variable = parse("MASTER_PORT", *text, 1, 65535);
  }
  if (flag && variable && *flag != *variable) {
    throw UsageError(concat("port of rank 0: --master-port=", *flag, " and MASTER_PORT=", *variable,
                            " contradict each other"));
  }
  if (!flag && !variable) return std::nullopt;
  return static_cast<int>(flag ? *flag : *variable);
}

bool is_this_machine(const std::string& address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

std::string default_address(const std::string& source, int world_size,
                            const Environment& environment) {
  if (source == "slurm") {
    const std::string* nodes = find(environment, "SLURM_STEP_NUM_NODES");
    if (!nodes) nodes = find(environment, "SLURM_NNODES");
    if (nodes && *nodes == "1") return "127.0.0.1";
    const std::string* list = find(environment, "SLURM_STEP_NODELIST");
    if (!list) list = find(environment, "SLURM_NODELIST");
    if (list) return first_host(*list);
  }
  if (source == "openmpi") {
    const auto local_size = stated(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    if (local_size && local_size->value == world_size) return "127.0.0.1";
  }
  throw UsageError(concat("where rank 0 of ", world_size,
                          " listens is not known: set MASTER_ADDR and MASTER_PORT (or "
                          "--master-addr, --master-port); on one machine 127.0.0.1 will do"));
}

/// One port per Slurm step, outside the range the kernel hands out, so that two jobs on one node
/// don't meet.
int default_port(const std::string& source, const Environment& environment) {
  const std::string* job = find(environment, "SLURM_JOB_ID");
  if (source != "slurm" || !job) return kDefaultPort;
  const std::string* step = find(environment, "SLURM_STEP_ID");
  const std::int64_t job_id = parse("SLURM_JOB_ID", *job, 0, INT64_C(1) << 40);
  const std::int64_t step_id = step ? parse("SLURM_STEP_ID", *step, 0, INT64_C(1) << 40) : 0;
  return static_cast<int>(20000 + (job_id * 7 + step_id) % 10000);
}

/// Rank and size once the claims are known to agree; throws when only one of the two can be told.
void set_rank_and_size(const std::vector<Claim>& claims, Rendezvous& result) {
  const auto rank = agreed(claims, &Claim::rank, "rank");
  const auto size = agreed(claims, &Claim::size, "world size");
  if (!rank && size && *size > 1) {
    throw UsageError(concat("rank is not known: ", list_values(claims),
                            " is set, but neither RANK nor --rank; start the program by "
                            "`fbi-llm launch`, srun, mpirun or torchrun"));
  }
  if (rank && !size) {
    throw UsageError(concat("world size is not known: ", list_values(claims),
                            " is set, but neither WORLD_SIZE nor --world-size"));
  }
  result.rank = rank.value_or(0);
  result.world_size = size.value_or(1);
  if (result.rank >= result.world_size) {
    throw UsageError(
        concat("expected a rank in [0, ", result.world_size, "), found ", list_values(claims)));
  }
}

void set_local_rank(const std::vector<Claim>& claims, Rendezvous& result) {
  const auto local = agreed(claims, &Claim::local_rank, "local rank");
  if (!local && result.world_size > 1 && !is_this_machine(result.master_addr)) {
    throw UsageError(concat("local rank is not known: ", list_values(claims),
                            " is set, but neither LOCAL_RANK nor --local-rank"));
  }
  result.local_rank = local.value_or(result.rank);
  if (result.local_rank >= result.world_size) {
    throw UsageError(concat("expected a local rank in [0, ", result.world_size, "), found ",
                            list_values(claims)));
  }
}

}  // namespace

Environment current_environment() {
  Environment result;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string text = *entry;
    const auto equals = text.find('=');
    if (equals != std::string::npos)
      result.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return result;
}

Rendezvous discover_rank(const RankFlags& flags, const Environment& environment) {
  const std::vector<Claim> claims = collect_claims(flags, environment);
  if (claims.empty() && is_batch_script(environment)) {
    if (const auto tasks = stated(environment, "SLURM_NTASKS", 1); tasks && tasks->value > 1) {
      throw UsageError(concat("this is a Slurm batch script with ", tasks->text(),
                              ", not one of its tasks: put `srun` before the command, or say "
                              "--world-size 1"));
    }
  }
  Rendezvous result;
  set_rank_and_size(claims, result);
  result.source = "one rank";
  for (const Claim& claim : claims) {
    result.source = claim.source;
    if (claim.complete()) break;
  }
  const auto address = stated_address(flags, environment);
  const auto port = stated_port(flags, environment);
  if (result.world_size > 1) {
    result.master_addr =
        address ? *address : default_address(claims.back().source, result.world_size, environment);
    result.master_port = port ? *port : default_port(claims.back().source, environment);
  } else {
    result.master_addr = address.value_or("");
    result.master_port = port.value_or(0);
  }
  set_local_rank(claims, result);
  const auto text = [&](const std::string& name) {
    const std::string* value = find(environment, name);
    return value ? *value : "";
  };
  // Torchrun's agent serves the store, and keeps it when it starts ranks again.
  if (text("TORCHELASTIC_USE_AGENT_STORE") == "True")
    result.attempt = concat(text("TORCHELASTIC_RUN_ID"), "/", text("TORCHELASTIC_RESTART_COUNT"));
  return result;
}

std::string first_host(const std::string& node_list) {
  // A list of "name", "name[03-07,12]suffix": of each bracket the first number counts.
  std::string host;
  bool broken = false;
  for (std::size_t i = 0; i < node_list.size() && node_list[i] != ','; ++i) {
    if (node_list[i] != '[') {
      host += node_list[i];
      continue;
    }
    const auto stop = node_list.find_first_of("-,]", i);
    const auto close = node_list.find(']', i);
    broken = broken || close == std::string::npos || stop == i + 1;
    if (broken) break;
    host += node_list.substr(i + 1, stop - i - 1);
    i = close;
  }
  if (broken || host.empty() || host.find_first_of(" \t()]") != std::string::npos) {
    throw UsageError(concat("Slurm node list \"", node_list,
                            "\" can't be read; set MASTER_ADDR to the host of rank 0"));
  }
  return host;
}

}  // namespace fbi::distributed
