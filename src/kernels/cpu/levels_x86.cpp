#include <initializer_list>

#include "kernels/cpu/levels.h"

namespace fbi::kernels {
namespace {

struct Feature {
  const char* name;
  bool present;  ///< the processor has it and the operating system saves its registers
};

std::string missing(std::initializer_list<Feature> features) {
  std::string names;
  for (const Feature& feature : features) {
    if (!feature.present) names += std::string(" ") + feature.name;
  }
  return names.empty() ? names : "processor lacks" + names;
}

}  // namespace

std::string avx512_declined() {
  return missing({{"avx512f", __builtin_cpu_supports("avx512f") != 0},
                  {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                  {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
                  {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
                  {"fma", __builtin_cpu_supports("fma") != 0},
                  {"bmi2", __builtin_cpu_supports("bmi2") != 0},
                  {"popcnt", __builtin_cpu_supports("popcnt") != 0}});
}

std::string avx2_declined() {
  return missing({{"avx2", __builtin_cpu_supports("avx2") != 0},
                  {"fma", __builtin_cpu_supports("fma") != 0},
                  {"bmi2", __builtin_cpu_supports("bmi2") != 0},
                  {"f16c", __builtin_cpu_supports("f16c") != 0},
                  {"popcnt", __builtin_cpu_supports("popcnt") != 0}});
}

}  // namespace fbi::kernels
