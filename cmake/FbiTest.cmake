# fbi_test(<name> LABEL <label> [PREFIX <of the tests' names>] SOURCES <cpp>... LIBRARIES <target>...)
#
# One GoogleTest program.  LABEL is one word (gtest_discover_tests with PRE_TEST keeps only the first
# of several): unit (no LibTorch), torch, run (starts whole programs).  One OpenMP thread per test: ctest runs several at once,
# and libgomp's spinning makes more threads than processors many times slower.
#
# ctest starts a process for each case, or for each suite of the programs in FBI_TESTS_BY_SUITE.
include(GoogleTest)
set(FBI_TEST_SUITES "${CMAKE_CURRENT_LIST_DIR}/FbiTestSuites.cmake")
find_package(Python3 3.9 COMPONENTS Interpreter REQUIRED)

# No test depends on a clock: this only ends what hangs. It is twenty times what the longest takes on two idle processors.
set(FBI_HANG_SECONDS 1200)

# Of several cases in one process all were skipped: what fails would be listed behind them.
set(FBI_ALL_SKIPPED "\\[  PASSED  \\] 0 tests[.]\n\\[  SKIPPED \\] [^\n]*\n(\\[  SKIPPED \\] [^\n]*\n)*$")

# Loading LibTorch takes longer than most of their cases, which neither fork nor leave anything set that another one sees.
set(FBI_TESTS_BY_SUITE cli distill nn_library nn_llama nn_model_folder ops_binarize ops_slots optim_adamw optim_schedule)

# Compiling a test takes longer than running it: less optimised than what it tests.
function(fbi_test_options target)
  target_compile_options(${target} PRIVATE -ffp-contract=off)
  if(NOT FBI_SANITIZE)
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  elseif(FBI_SANITIZE MATCHES undefined)  # checks of every pointer are for what is tested, and a third of a test's compilation
    target_compile_options(${target} PRIVATE -fno-sanitize=alignment,null,object-size,vptr)
  endif()
endfunction()

function(fbi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LABEL;PREFIX" "SOURCES;LIBRARIES")
  add_executable(${name}_test ${arg_SOURCES})
  target_include_directories(${name}_test PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  fbi_test_options(${name}_test)
  target_link_libraries(${name}_test PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main)
  if(arg_LABEL STREQUAL torch)
    fbi_precompile(${name}_test torch_tests)
  else()
    fbi_precompile(${name}_test unit_tests)
  endif()
  set(properties LABELS ${arg_LABEL} TIMEOUT ${FBI_HANG_SECONDS} ENVIRONMENT OMP_NUM_THREADS=1)
  if(name IN_LIST FBI_TESTS_BY_SUITE)
    fbi_discover_suites(${name}_test "${arg_PREFIX}" ${properties})
  else()
    gtest_discover_tests(${name}_test TEST_PREFIX "${arg_PREFIX}" DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 300
      PROPERTIES ${properties})
  endif()
endfunction()

# fbi_discover_suites(<target> <prefix> [<property> <value>]...): tests named after suites, found when ctest runs.
function(fbi_discover_suites target prefix)
  set(file "${CMAKE_CURRENT_BINARY_DIR}/${target}_suites")
  list(JOIN ARGN " " properties)
  file(GENERATE OUTPUT "${file}.cmake" CONTENT "include([[${FBI_TEST_SUITES}]])
fbi_add_suites([[$<TARGET_FILE:${target}>]] [[${file}.txt]] [[${prefix}]]
  WORKING_DIRECTORY [[${CMAKE_CURRENT_BINARY_DIR}]] SKIP_REGULAR_EXPRESSION [==[${FBI_ALL_SKIPPED}]==] ${properties})
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${file}.cmake")
endfunction()

# fbi_python_test(<name> <script> LABEL <label> [ARGS <word>...]): a test in Python, labelled run, or tree (rules of the tree
# and the scripts).
function(fbi_python_test name script)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "LABEL" "ARGS")
  get_filename_component(script "${script}" ABSOLUTE)
  add_test(NAME ${name} COMMAND Python3::Interpreter "${script}" ${arg_ARGS})
  # Whatever the locale, files and output are UTF-8.
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${FBI_HANG_SECONDS} ENVIRONMENT_MODIFICATION PYTHONUTF8=set:1)
endfunction()
