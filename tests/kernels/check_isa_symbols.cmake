# cmake -DNM=nm -DARCHIVE=libfbi_kernels.a -P check_isa_symbols.cmake
#
# Files with instruction-set flags must define nothing that the linker may share with other files
# (weak or unique symbols: inline functions, templates): a copy of theirs would crash an older processor.
execute_process(COMMAND ${NM} --defined-only ${ARCHIVE}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" lines "${symbols}")
set(member "")
set(seen 0)
foreach(line IN LISTS lines)
  if(line MATCHES "^([^ ]+):$")
    set(member "${CMAKE_MATCH_1}")
    if(member MATCHES "avx")
      math(EXPR seen "${seen} + 1")
    endif()
  elseif(member MATCHES "avx" AND line MATCHES " [WVuwv] ")
    message(SEND_ERROR "${member} defines a shared symbol: ${line}")
  endif()
endforeach()
if(NOT seen EQUAL 4)
  message(SEND_ERROR "expected avx2, avx512 and their gemv files in ${ARCHIVE}, found ${seen} such members")
endif()
