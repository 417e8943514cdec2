# fbi_test(<name> LABEL <label> [PREFIX <of the tests' names>] SOURCES <cpp>... LIBRARIES <target>...)
#
# One GoogleTest program.  LABEL is one word (gtest_discover_tests with PRE_TEST keeps only the first
# of several): unit (no LibTorch), torch, run (starts whole programs).  One OpenMP thread per test: ctest runs several at once,
# and libgomp's spinning makes more threads than processors many times slower.
include(GoogleTest)
find_package(Python3 3.9 COMPONENTS Interpreter REQUIRED)

# No test depends on a clock: this only ends what hangs. It is twenty times what the longest takes on two idle processors.
set(FBI_HANG_SECONDS 1200)

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
  gtest_discover_tests(${name}_test TEST_PREFIX "${arg_PREFIX}" DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 300
    PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${FBI_HANG_SECONDS} ENVIRONMENT OMP_NUM_THREADS=1)
endfunction()

# fbi_python_test(<name> <script> LABEL <label> [ARGS <word>...]): a test in Python, labelled run, or tree (rules of the tree
# and the scripts).
function(fbi_python_test name script)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "LABEL" "ARGS")
  get_filename_component(script "${script}" ABSOLUTE)
  add_test(NAME ${name} COMMAND Python3::Interpreter "${script}" ${arg_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${FBI_HANG_SECONDS})
endfunction()
