# fbi_precompile(<target> <kind>): what <target> includes most is parsed once per kind instead of in every file, which
# halves the time of a build from nothing. Kinds: plain and torch (modules without and with LibTorch), unit_tests and
# torch_tests. Every file still includes what it uses: the presets debug, runtime and tsan build without this.
option(FBI_PRECOMPILE_HEADERS "Parse the headers of the standard library, JSON, GoogleTest and LibTorch once" OFF)
if(FBI_PRECOMPILE_HEADERS AND CMAKE_CXX_COMPILER_LAUNCHER STREQUAL CCACHE_PROGRAM)
  # ccache's own conditions for files that use precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER
    ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros "${CCACHE_PROGRAM}")
  add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)
endif()

set(fbi_plain_headers <algorithm> <array> <chrono> <cmath> <filesystem> <fstream> <functional> <map> <memory> <optional>
  <set> <span> <sstream> <string> <string_view> <thread> <unordered_map> <utility> <variant> <vector> <nlohmann/json.hpp>)
set(fbi_torch_headers ${fbi_plain_headers} <ATen/Parallel.h> <ATen/TensorOperators.h> <ATen/core/Tensor.h>
  <ATen/core/grad_mode.h> <ATen/ops/empty.h> <ATen/ops/zeros.h>)
set(fbi_unit_tests_headers ${fbi_plain_headers} <gmock/gmock.h> <gtest/gtest.h>)
set(fbi_torch_tests_headers ${fbi_torch_headers} <gmock/gmock.h> <gtest/gtest.h>)

function(fbi_precompile target kind)
  if(NOT FBI_PRECOMPILE_HEADERS)
    return()
  endif()
  set(holder fbi_precompiled_${kind})
  if(NOT TARGET ${holder})
    file(WRITE "${PROJECT_BINARY_DIR}/${holder}.cpp" "")
    add_library(${holder} OBJECT "${PROJECT_BINARY_DIR}/${holder}.cpp")
    target_link_libraries(${holder} PRIVATE nlohmann_json::nlohmann_json)
    if(kind MATCHES torch)
      target_link_libraries(${holder} PRIVATE LibTorch::LibTorch)
    endif()
    if(kind MATCHES tests)
      target_link_libraries(${holder} PRIVATE GTest::gmock)
      fbi_test_options(${holder})
    else()
      target_compile_options(${holder} PRIVATE -ffp-contract=off)
      set_target_properties(${holder} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    endif()
    target_precompile_headers(${holder} PRIVATE ${fbi_${kind}_headers})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${holder})
endfunction()
