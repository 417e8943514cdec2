#pragma once

#include <vector>

namespace fbi {

/// SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and, but under nohup, SIGHUP, which comes when a terminal or
/// its connection ends.
std::vector<int> stop_signals();

/// The stop signals from now on only set a flag; a second SIGINT ends the process the default way,
/// which the first one tells a terminal.
/// SIGXFSZ and SIGPIPE are ignored: a file-size limit or a closed pipe is an error of `write`, not
/// the end of the process. Signals that the parent process had blocked arrive from here on. For
/// programs that ask stop_requested(), before their work begins.
void install_stop_handlers();

/// For programs that do not ask: stop signals and SIGPIPE do what the parent process left them to
/// do, which is to end the process, also those that it had blocked. SIGXFSZ is ignored as above.
void keep_stop_actions();

/// The first stop signal that arrived, or 0. Async-signal-safe, cheap enough for an inner loop.
int stop_requested();

/// Forgets the request: for programs that run several loops one after the other, and for tests.
void clear_stop_request();

}  // namespace fbi
