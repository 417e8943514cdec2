#pragma once

#include <httplib.h>
#include <sys/socket.h>

#include <cstddef>
#include <functional>
#include <semaphore>
#include <utility>

namespace fbi::serve {

/// As many threads as connections may be served. When all are busy the server accepts no more, and
/// further connections wait in the system.
class BoundedPool final : public httplib::TaskQueue {
 public:
  explicit BoundedPool(std::size_t threads)
      : pool_(threads), free_(static_cast<std::ptrdiff_t>(threads)) {}

  /// void, or whether there was room, as the version of the library has it.
  using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));

  Enqueued enqueue(std::function<void()> serve) override {
    free_.acquire();
    return pool_.enqueue([this, serve = std::move(serve)] {
      serve();
      free_.release();
    });
  }
  void shutdown() override { pool_.shutdown(); }

 private:
  httplib::ThreadPool pool_;
  std::counting_semaphore<> free_;
};

class Listener final : public httplib::Server {
 public:
  /// Connections that the system holds until they are accepted; the library asks for five.
  void lengthen_backlog() { ::listen(svr_sock_, 1024); }
};

}  // namespace fbi::serve
