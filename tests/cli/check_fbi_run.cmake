# cmake -DPROGRAM=... -P check_fbi_run.cmake: fbi-run needs no LibTorch, nor a runtime of threads that it brings, and is small.
execute_process(COMMAND ldd "${PROGRAM}" OUTPUT_VARIABLE libraries COMMAND_ERROR_IS_FATAL ANY)
# By name: an address may hold "c10", too.
if(libraries MATCHES "lib(torch|c10|gomp|mkl|python)[^\n]*")
  message(FATAL_ERROR "${PROGRAM} loads: ${CMAKE_MATCH_0}")
endif()
file(SIZE "${PROGRAM}" bytes)
if(bytes GREATER 4000000)
  message(FATAL_ERROR "${PROGRAM} has ${bytes} bytes, expected at most 4,000,000")
endif()
message("${bytes} bytes\n${libraries}")
