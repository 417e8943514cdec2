#include "distributed/local_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

std::string number_of(const sockaddr* address, socklen_t length) {
  char text[NI_MAXHOST] = {};
  const bool known =
      getnameinfo(address, length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0;
  return known ? text : "";
}

/// A datagram socket "connected" to an address sends nothing, but gets the address that would be
/// used.
std::string source_for(const addrinfo& target) {
  const int descriptor = socket(target.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return {};
  sockaddr_storage source = {};
  socklen_t length = sizeof(source);
  auto* address = reinterpret_cast<sockaddr*>(&source);
  const bool found = connect(descriptor, target.ai_addr, target.ai_addrlen) == 0 &&
                     getsockname(descriptor, address, &length) == 0;
  close(descriptor);
  return found ? number_of(address, length) : "";
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

/// The first IPv4 address of a network interface that is up; "" when there is none.
std::string first_network_address() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> guard(list, freeifaddrs);
  for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
    const bool usable = entry->ifa_addr && entry->ifa_addr->sa_family == AF_INET &&
                        (entry->ifa_flags & IFF_UP) && !(entry->ifa_flags & IFF_LOOPBACK);
    if (usable) return number_of(entry->ifa_addr, sizeof(sockaddr_in));
  }
  return {};
}

}  // namespace

std::string local_address_towards(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "9", &hints, &list); error != 0) {
    throw UsageError(
        concat("the host of rank 0, ", host, ", is unknown here: ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(list, freeaddrinfo);
  for (const addrinfo* target = list; target; target = target->ai_next) {
    const std::string source = source_for(*target);
    if (source.empty()) continue;
    const bool told_loopback = is_loopback(host) || host == "localhost";
    if (!is_loopback(source) || told_loopback) return source;
    const std::string network = first_network_address();
    return network.empty() ? source : network;
  }
  throw UsageError(concat("no network of this machine leads to the host of rank 0, ", host));
}

}  // namespace fbi::distributed
