#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace c10d {
class Store;
}

namespace fbi::distributed {

/// How a process introduces itself.
struct Hello {
  int rank = 0;
  int world_size = 1;
  std::string host;
  std::int64_t pid = 0;
  std::map<std::string, std::string> must_agree;
  std::string gpu;  ///< among those of the host; "": none
};

/// What keeps these processes from being one group of `world_size` ranks, naming the odd ones; ""
/// when nothing does. Before all have arrived (`complete` false) only what can't get right any more
/// is reported.
std::string find_disagreement(const std::vector<Hello>& hellos, int world_size, bool complete);
/// The ranks that have not said hello; "" when there is none.
std::string find_missing(const std::vector<Hello>& hellos, int world_size);

/// Every rank says hello through the store, rank 0 judges, and all learn the verdict: returns on
/// all or throws the same on all: UsageError when they do not fit together, PeerError when some
/// have not come in time, which another start may mend. PeerError also where rank 0 is lost
/// meanwhile, StoppedError after a stop signal.
void shake_hands(c10d::Store& store, const Hello& hello, std::chrono::milliseconds timeout);

/// StoppedError when a stop signal has come: for those who wait for other ranks.
void heed_stop();

}  // namespace fbi::distributed
