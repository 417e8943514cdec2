# fbi_test(<name> [TOGETHER] LABEL <label> [PREFIX <of the tests' names>] SOURCES <cpp>... LIBRARIES <target>... [TIMEOUT <seconds>])
#
# One GoogleTest program.  LABEL is one word (gtest_discover_tests with PRE_TEST keeps only the first
# of several): unit (no LibTorch), torch, run (starts whole programs).  One OpenMP thread per test: ctest runs several at once,
# and libgomp's spinning makes more threads than processors many times slower.  TOGETHER: see fbi_module.
include(GoogleTest)
function(fbi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TOGETHER" "LABEL;PREFIX;TIMEOUT" "SOURCES;LIBRARIES")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_executable(${name}_test ${arg_SOURCES})
  target_include_directories(${name}_test PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_options(${name}_test PRIVATE -ffp-contract=off)
  if(NOT FBI_SANITIZE)  # compiling a test takes longer than running it: less optimised than what it tests
    target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  target_link_libraries(${name}_test PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main)
  if(NOT arg_TOGETHER)
    set_target_properties(${name}_test PROPERTIES UNITY_BUILD OFF)
  endif()
  gtest_discover_tests(${name}_test TEST_PREFIX "${arg_PREFIX}" DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT OMP_NUM_THREADS=1)
endfunction()
