#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/distributed/communicator.h"

namespace fbi::distributed {

/// The texts of all ranks, in rank order. Collective.
std::vector<std::string> all_gather_text(Communicator& communicator, std::string_view text);

/// Runs `work` on this rank and waits for the others: returns when it succeeded on all, else throws
/// on all. A rank whose own work failed rethrows that; the others throw an error of the same kind,
/// naming the first rank that failed and its message (PeerError for what is no fbi::Error).
/// Collective, so `work` must hold no collective that others might not reach.
void run_together(Communicator& communicator, const std::function<void()>& work);

/// Runs `work`, an error of which is the end of this rank; the others hear of it, unless it is
/// theirs (PeerError).
void run_or_give_up(Communicator& communicator, const std::function<void()>& work);

}  // namespace fbi::distributed
