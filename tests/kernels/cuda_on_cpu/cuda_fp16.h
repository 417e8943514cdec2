#pragma once

/// The compiler's own binary16.
struct __half {
#if defined(__aarch64__)
  __fp16 value;  // GCC 12 has no _Float16 there
#else
  _Float16 value;
#endif
};

inline __half __float2half_rn(float x) {
  return {static_cast<decltype(__half::value)>(x)};
}
inline float __half2float(__half x) {
  return static_cast<float>(x.value);
}
