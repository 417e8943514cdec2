#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>

#include <stdexcept>

namespace fbi::test {

/// A port that nobody else gets until this process ends: a socket is bound to it, but does not
/// listen, so that a server that sets SO_REUSEADDR, as all do, can listen there, and until then
/// whoever calls is refused.
inline int free_port() {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  const bool bound = setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                     bind(descriptor, any, length) == 0 &&
                     getsockname(descriptor, any, &length) == 0;
  if (!bound) throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

}  // namespace fbi::test
