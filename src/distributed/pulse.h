#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "distributed/handshake.h"

namespace fbi::distributed {

using StorePointer = c10::intrusive_ptr<c10d::Store>;

/// Tells the other ranks that this process lives, whatever its main thread waits for, and knows
/// which of them are missing when a collective fails. A thread of its own talks to the store of
/// rank 0, over a connection of its own.
class Pulse {
 public:
  static constexpr std::chrono::milliseconds kAskAgain{10};

  /// Gives the first sign of life. Before the handshake, so that all ranks that pass it have one.
  Pulse(const StorePointer& store, const Hello& self);
  ~Pulse() { leave(); }
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  /// After the handshake.
  void start();
  /// One more collective was begun.
  void count_collective();
  /// When a collective has failed: who is missing, as the first rank saw that looked; "" when
  /// nobody is known to be. Takes two seconds, on rank 0 until the others know too.
  std::string find_missing();
  /// For a wait that no error ends, as a network that is cut gives none: looks in the background,
  /// and returns who has been missing for long; "" as long as nobody has. To be asked again after
  /// kAskAgain.
  std::string long_missing();
  /// The wait is over.
  void stop_looking();
  /// Says that this rank ends, before its connections do. With a reason, one line, it waits until
  /// the others have heard it, three seconds at most: the store of rank 0 ends with its process.
  void leave(const std::string& reason = {});

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;  ///< shared with the thread, which may be left behind
  bool started_ = false;
};

}  // namespace fbi::distributed
