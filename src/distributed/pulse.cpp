#include "distributed/pulse.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::distributed {

/// What a rank leaves in the store again and again.
struct Sign {
  std::int64_t beat = 0;  ///< -1: it has left
  std::int64_t collectives = 0;
  std::int64_t pid = 0;
  std::string host;
};

/// Why collectives fail.
struct Finding {
  int missing = 0;  ///< ranks that will not hear of it
  std::string text;
  void add(const std::string& who) { text += (text.empty() ? "" : ", ") + who; }
};

struct Peer {
  Sign sign;
  int silent_looks = 0;
  bool heard = false;  ///< a new sign since we look
  bool left() const { return sign.beat < 0; }
};

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBeat{500};  ///< between two signs of life
constexpr milliseconds kLook{100};  ///< between two looks at the others
constexpr int kSilentLooks = 20;    ///< four beats: a rank that lives has given a sign by then
constexpr int kLongLooks = 200;
/// As long, by the questions of one who waits: a clock would count the time that all were stopped.
constexpr int kLongQuestions = static_cast<int>(kLongLooks * kLook / Pulse::kAskAgain);
constexpr milliseconds kStoreTime{3000};  ///< for the store of rank 0
constexpr const char* kFinding = "fbi/missing";
constexpr const char* kHeard = "fbi/heard";  ///< ranks that know the finding, or have left

std::string sign_key(int rank) {
  return concat("fbi/sign/", rank);
}

std::string sign_text(const Sign& sign) {
  return concat(sign.beat, " ", sign.collectives, " ", sign.pid, " ", sign.host);
}

Sign read_sign(const std::vector<std::uint8_t>& bytes) {
  Sign sign;
  std::istringstream(std::string(bytes.begin(), bytes.end())) >> sign.beat >> sign.collectives >>
      sign.pid >> sign.host;
  return sign;
}

}  // namespace

struct Pulse::State {
  State(StorePointer connection, const Hello& hello)
      : store(std::move(connection)),
        rank(hello.rank),
        size(hello.world_size),
        self{1, 0, hello.pid, hello.host} {
    for (int peer = 0; peer < size; ++peer) keys.push_back(sign_key(peer));
    peers.resize(static_cast<std::size_t>(size));
    peers[static_cast<std::size_t>(rank)].sign = self;
  }

  const StorePointer store;
  const int rank, size;
  std::vector<std::string> keys;
  Sign self;  // the thread's
  std::atomic<std::int64_t> collectives{0};

  std::mutex mutex;
  std::condition_variable changed;
  // Under the mutex:
  bool stop = false, ended = false, looking = false;
  bool told = false, all_know = false;  // of the finding
  bool silent_store = false;            // that of rank 0 does not answer
  int looks = 0;
  int questions = 0;  // since the last look
  std::vector<Peer> peers;
  std::optional<Finding> finding;

  void give_sign() {
    self.collectives = collectives;
    store->set(keys[static_cast<std::size_t>(rank)], sign_text(self));
  }

  /// One turn of the thread; nobody waits for the store under the mutex.
  void beat(std::unique_lock<std::mutex>& lock) {
    const bool look = looking;
    const bool knew = told;
    std::optional<Finding> found = finding;
    lock.unlock();
    ++self.beat;
    give_sign();
    if (!knew) found = exchange(std::move(found));
    const bool everyone = found && store->add(kHeard, 0) >= size - found->missing;
    std::vector<std::vector<std::uint8_t>> signs;
    if (look) signs = store->multiGet(keys);
    lock.lock();
    if (found) {
      finding = std::move(found);
      told = true;
      all_know = everyone;
    }
    if (look) note(signs);
    changed.notify_all();
  }

  /// Keeps `mine` where there is no finding, and waits until the others know: all of them on rank
  /// 0, which then may take the store away.
  void tell(std::unique_lock<std::mutex>& lock, Finding mine) {
    if (!finding) finding = std::move(mine);
    changed.notify_all();
    changed.wait_for(lock, kStoreTime, [&] { return ended || (rank == 0 ? all_know : told); });
  }

  /// The thread's last word; the mutex is not held.
  void say_farewell(bool knew) {
    if (!knew) store->add(kHeard, 1);
    self.beat = -1;
    give_sign();
  }

  /// The first finding holds: what is in the store, else `mine`, which is put there.
  std::optional<Finding> exchange(std::optional<Finding> mine) {
    if (store->check({kFinding})) {
      const auto bytes = store->get(kFinding);
      const std::string text(bytes.begin(), bytes.end());
      mine = Finding{std::atoi(text.c_str()), text.substr(text.find(' ') + 1)};
    } else if (mine) {
      store->set(kFinding, concat(mine->missing, " ", mine->text));
    }
    if (mine) store->add(kHeard, 1);
    return mine;
  }

  void note(const std::vector<std::vector<std::uint8_t>>& signs) {
    const bool first = looks++ == 0;
    questions = 0;
    for (std::size_t peer = 0; peer < peers.size(); ++peer) {
      const Sign sign = read_sign(signs[peer]);
      const bool fresh = !first && sign.beat != peers[peer].sign.beat;
      peers[peer] = {sign, first || fresh ? 0 : peers[peer].silent_looks + 1,
                     (!first && peers[peer].heard) || fresh};
    }
  }

  void start_looking() {
    if (looking) return;
    looking = true;
    looks = questions = 0;
    changed.notify_all();
  }

  /// Of the store of rank 0, though one who waits has asked for long.
  bool hears_nothing() const { return rank != 0 && questions > kLongQuestions; }

  bool all_heard() const {
    for (int peer = 0; peer < size; ++peer)
      if (peer != rank && !peers[static_cast<std::size_t>(peer)].heard &&
          !peers[static_cast<std::size_t>(peer)].left())
        return false;
    return true;
  }

  std::string name(int peer) const {
    const Sign& sign = peers[static_cast<std::size_t>(peer)].sign;
    if (sign.host.empty()) return concat("rank ", peer);
    return concat("rank ", peer, " (process ", sign.pid, " on ", sign.host, ")");
  }

  Finding without_rank_0() const {
    return {1, name(0) + " is not reachable: it was lost or stands still"};
  }

  Finding conclude(int silent_looks) const {
    Finding result;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const Peer& other = peers[static_cast<std::size_t>(peer)];
      if (other.left()) result.add(name(peer) + " has ended");
      if (other.left() || other.silent_looks < silent_looks) continue;
      result.add(name(peer) + " was lost or stands still");
      ++result.missing;
    }
    return result;
  }

  /// Ranks that live, but do not come to the collective that this one waits in.
  Finding who_is_behind() const {
    Finding result;
    for (int peer = 0; peer < size; ++peer) {
      const std::int64_t behind =
          collectives - peers[static_cast<std::size_t>(peer)].sign.collectives;
      if (peer != rank && behind > 0)
        result.add(concat(name(peer), " lives but stands still, ", behind,
                          behind == 1 ? " collective behind" : " collectives behind"));
    }
    return result;
  }
};

Pulse::Pulse(const StorePointer& store, const Hello& self)
    : state_(std::make_shared<State>(store->clone(), self)) {
  state_->give_sign();
}

void Pulse::leave(const std::string& reason) {
  if (!std::exchange(started_, false)) return;
  std::unique_lock lock(state_->mutex);
  if (!reason.empty() && !state_->silent_store) {
    state_->tell(lock, {0, concat(state_->name(state_->rank), " has ended: ", reason)});
  }
  state_->stop = true;
  state_->changed.notify_all();
  if (state_->silent_store) return;  // what is said now nobody hears
  state_->changed.wait_for(lock, kStoreTime, [&] { return state_->ended; });
}

void Pulse::start() {
  try {  // so that also one who is lost in the next moment has a name
    state_->note(state_->store->multiGet(state_->keys));
  } catch (const std::exception&) {  // the first collective will tell
  }
  started_ = true;
  std::thread(run, state_).detach();
}

void Pulse::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  try {
    while (!state->stop) {
      state->beat(lock);
      const bool looking = state->looking, knew = state->finding.has_value();
      state->changed.wait_for(lock, looking || knew ? kLook : kBeat, [&] {
        return state->stop || state->looking != looking || state->finding.has_value() != knew;
      });
    }
    const bool knew = state->told;
    lock.unlock();
    state->say_farewell(knew);
  } catch (const std::exception&) {  // the process of rank 0 has ended
  }
  if (!lock.owns_lock()) lock.lock();
  state->ended = true;
  state->changed.notify_all();
}

void Pulse::count_collective() {
  ++state_->collectives;
}

std::string Pulse::find_missing() {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.start_looking();
  const auto seen = [&] { return s.looks > kSilentLooks || (s.looks > 1 && s.all_heard()); };
  const auto deaf = [&] { return s.ended || s.hears_nothing(); };
  const auto done = [&] { return s.finding || deaf() || seen(); };
  // A slow store answers late, that of a lost rank 0 not at all.
  for (int before = s.looks; !done(); before = s.looks) {
    const auto answered = [&] { return done() || s.looks != before; };
    if (!s.changed.wait_for(lock, kStoreTime, answered)) break;
  }
  if (!s.finding && s.rank != 0 && (deaf() || !seen())) {
    s.silent_store = true;
    return s.without_rank_0().text;
  }
  Finding mine;
  if (!s.finding) {
    mine = s.conclude(kSilentLooks);
    if (mine.text.empty()) mine = s.who_is_behind();
    if (mine.text.empty()) return {};
  }
  s.tell(lock, std::move(mine));
  return s.finding->text;
}

std::string Pulse::long_missing() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.start_looking();
  if (s.finding) return s.finding->text;
  ++s.questions;
  if (s.ended || s.hears_nothing()) return s.without_rank_0().text;
  return s.conclude(kLongLooks).text;
}

void Pulse::stop_looking() {
  const std::lock_guard lock(state_->mutex);
  state_->looking = false;
}

}  // namespace fbi::distributed
