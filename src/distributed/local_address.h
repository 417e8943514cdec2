#pragma once

#include <string>

namespace fbi::distributed {

/// The address of this machine that reaches `host`, as a number; on a machine that knows its own
/// name as a loopback address (Debian's 127.0.1.1), an address of its network. Throws UsageError
/// when the host is unknown.
std::string local_address_towards(const std::string& host);

}  // namespace fbi::distributed
