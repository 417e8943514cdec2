#pragma once

namespace fbi {

/// Gives the processor's resources to others for some dozen cycles.
inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // yield takes no time on most of these processors
#endif
}

/// Asks ready() for some tens of microseconds, about what waking a thread takes; whether it was. A
/// thread that waits for another one of the same step tries this before it sleeps: longer waits
/// do not make a busy machine busier.
template <class Ready>
bool spin_until(const Ready& ready) {
  constexpr int kSpins = 2000;
  for (int k = 0; k < kSpins; ++k) {
    if (ready()) return true;
    pause_briefly();
  }
  return false;
}

}  // namespace fbi
