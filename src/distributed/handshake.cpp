#include "distributed/handshake.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "fbi/core/error.h"
#include "fbi/core/signals.h"

namespace fbi::distributed {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* kArrivals = "fbi/arrivals";
constexpr const char* kVerdict = "fbi/verdict";
constexpr const char* kFarewells = "fbi/farewells";
constexpr milliseconds kGrace{5000};  ///< for answers that are on their way

std::string hello_key(std::int64_t arrival) {
  return concat("fbi/hello/", arrival);
}

std::vector<std::uint8_t> to_bytes(const std::string& text) {
  return {text.begin(), text.end()};
}
std::string to_text(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::vector<std::uint8_t> encode(const Hello& hello) {
  const json value = {hello.rank, hello.world_size, hello.host,
                      hello.pid,  hello.must_agree, hello.gpu};
  return to_bytes(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

Hello decode(const std::vector<std::uint8_t>& bytes) {
  const json value = json::parse(to_text(bytes), nullptr, false);
  try {
    return {value.at(0), value.at(1), value.at(2), value.at(3), value.at(4), value.at(5)};
  } catch (const json::exception&) {
    throw UsageError("another kind of program answers at the address of rank 0");
  }
}

/// Whether the key is set by `deadline`. Asking again and again, because a wait that times out
/// makes c10d print warnings.
bool wait_for(c10d::Store& store, const std::string& key, Clock::time_point deadline) {
  milliseconds pause{2};
  while (!store.check({key})) {
    heed_stop();
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, milliseconds(100));
  }
  return true;
}

/// What rank 0 tells all: that they may go on, or one of these with the reason behind it.
constexpr std::string_view kWelcome = "welcome", kRefused = "refused: ", kTooFew = "too few: ";

/// Rank 0: collects hellos until all are there, something is wrong or time is up.
std::string judge(c10d::Store& store, int world_size, Clock::time_point deadline) {
  std::vector<Hello> hellos;
  while (static_cast<int>(hellos.size()) < world_size) {
    const std::string key = hello_key(static_cast<std::int64_t>(hellos.size()) + 1);
    if (!wait_for(store, key, deadline)) break;
    hellos.push_back(decode(store.get(key)));
    const std::string wrong = find_disagreement(hellos, world_size, false);
    if (!wrong.empty()) return concat(kRefused, wrong);
  }
  if (const std::string missing = find_missing(hellos, world_size); !missing.empty())
    return concat(kTooFew, missing);
  const std::string wrong = find_disagreement(hellos, world_size, true);
  return wrong.empty() ? std::string(kWelcome) : concat(kRefused, wrong);
}

/// Rank 0 serves the store: it stays until the others have read a verdict that makes everyone
/// leave.
void wait_for_farewells(c10d::Store& store) {
  const auto deadline = Clock::now() + kGrace;
  while (store.add(kFarewells, 0) + 1 < store.add(kArrivals, 0) && Clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(20));
  }
}

}  // namespace

void heed_stop() {
  if (const int signal = stop_requested())
    throw StoppedError(concat("stopped by signal ", signal, " before all ranks had met"));
}

void shake_hands(c10d::Store& store, const Hello& hello, milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  store.set(hello_key(store.add(kArrivals, 1)), encode(hello));
  std::string verdict;
  if (hello.rank == 0) {
    verdict = judge(store, hello.world_size, deadline);
    store.set(kVerdict, to_bytes(verdict));
    if (verdict != kWelcome) wait_for_farewells(store);
  } else {
    if (!wait_for(store, kVerdict, deadline + kGrace)) {
      throw PeerError("rank 0 was lost, or stood still, before all ranks had met");
    }
    verdict = to_text(store.get(kVerdict));
    store.add(kFarewells, 1);
  }
  if (verdict.starts_with(kTooFew)) throw PeerError(verdict.substr(kTooFew.size()));
  if (verdict.starts_with(kRefused)) throw UsageError(verdict.substr(kRefused.size()));
}

}  // namespace fbi::distributed
