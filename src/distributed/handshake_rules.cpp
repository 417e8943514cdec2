#include <algorithm>
#include <set>

#include "distributed/handshake.h"
#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

std::string name_of(const Hello& hello) {
  return concat("rank ", hello.rank, " (process ", hello.pid, " on ", hello.host, ")");
}

std::string value_of(const Hello& hello, const std::string& key) {
  const auto found = hello.must_agree.find(key);
  return found == hello.must_agree.end() ? "nothing" : found->second;
}

/// The value most ranks have; between equals that of the lowest rank.
std::string usual_value(const std::vector<Hello>& by_rank, const std::string& key) {
  std::map<std::string, int> counts;
  for (const Hello& hello : by_rank) ++counts[value_of(hello, key)];
  std::string usual;
  int most = 0;
  for (const Hello& hello : by_rank) {
    const std::string value = value_of(hello, key);
    if (counts[value] > most) {
      most = counts[value];
      usual = value;
    }
  }
  return usual;
}

std::string find_odd_values(const std::vector<Hello>& by_rank) {
  std::set<std::string> keys;
  for (const Hello& hello : by_rank) {
    for (const auto& [key, value] : hello.must_agree) keys.insert(key);
  }
  for (const std::string& key : keys) {
    const std::string usual = usual_value(by_rank, key);
    std::vector<std::string> odd;
    for (const Hello& hello : by_rank) {
      if (value_of(hello, key) == usual) continue;
      odd.push_back(concat(name_of(hello), " has ", value_of(hello, key)));
    }
    if (!odd.empty())
      return concat("ranks disagree in ", key, ": most have ", usual, ", but ", join(odd));
  }
  return {};
}

/// Two ranks that were given the same GPU.
std::string find_shared_gpu(const std::vector<Hello>& by_rank) {
  std::map<std::pair<std::string, std::string>, const Hello*> users;
  for (const Hello& hello : by_rank) {
    if (hello.gpu.empty()) continue;
    const auto [first, is_new] = users.try_emplace({hello.host, hello.gpu}, &hello);
    if (!is_new)
      return concat(name_of(*first->second), " and ", name_of(hello), " both compute on GPU ",
                    hello.gpu,
                    ": start one rank for each GPU, and let every rank see all GPUs of its machine "
                    "or its own alone (CUDA_VISIBLE_DEVICES, "
                    "or Slurm's --gpu-bind)");
  }
  return {};
}

}  // namespace

std::string find_disagreement(const std::vector<Hello>& hellos, int world_size, bool complete) {
  std::vector<Hello> by_rank = hellos;
  std::stable_sort(by_rank.begin(), by_rank.end(),
                   [](const Hello& a, const Hello& b) { return a.rank < b.rank; });
  for (std::size_t i = 0; i < by_rank.size(); ++i) {
    const Hello& hello = by_rank[i];
    if (hello.world_size != world_size) {
      return concat(name_of(hello), " was started as one of ", hello.world_size,
                    " ranks, rank 0 as one of ", world_size);
    }
    if (i > 0 && by_rank[i - 1].rank == hello.rank) {
      return concat(name_of(by_rank[i - 1]), " and process ", hello.pid, " on ", hello.host,
                    " both are rank ", hello.rank);
    }
  }
  if (const std::string shared = find_shared_gpu(by_rank); !shared.empty()) return shared;
  return complete ? find_odd_values(by_rank) : "";
}

std::string find_missing(const std::vector<Hello>& hellos, int world_size) {
  std::set<int> there;
  for (const Hello& hello : hellos) there.insert(hello.rank);
  std::vector<int> missing;
  for (int rank = 0; rank < world_size; ++rank)
    if (!there.contains(rank)) missing.push_back(rank);
  if (missing.empty()) return {};
  return concat("of ", world_size, " ranks only ", hellos.size(),
                " arrived in time; missing: ", join(missing));
}

}  // namespace fbi::distributed
