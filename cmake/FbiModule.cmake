# fbi_compile_options(<target>): what all code of src is compiled with.
function(fbi_compile_options target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-ffp-contract=off>)
endfunction()

# fbi_module(<name> SOURCES <cpp/cu>... [MODULES <module>...] [LIBRARIES <target>...]
#            [PRIVATE_LIBRARIES <target>...])
#
# One folder, one static library fbi_<name>, alias and export name fbi::<name>.  MODULES is the one
# list of modules whose headers this one may include; scripts/check_layers.py reads it from here.
# Public headers are all of include/fbi/<name>/.
#
# With CMAKE_UNITY_BUILD (the presets release, aarch64, asan and tsan-runtime) several files are compiled as one, which takes less than
# half of the time. Names outside of functions must therefore differ in a module, anonymous namespaces included.
function(fbi_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;MODULES;LIBRARIES;PRIVATE_LIBRARIES")
  set(target fbi_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  add_library(fbi::${name} ALIAS ${target})
  file(GLOB headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/fbi/${name}/*.h")
  target_sources(${target} PUBLIC
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_compile_features(${target} PUBLIC cxx_std_20)
  fbi_compile_options(${target})
  list(TRANSFORM arg_MODULES PREPEND fbi:: OUTPUT_VARIABLE modules)
  target_link_libraries(${target} PUBLIC ${modules} ${arg_LIBRARIES} PRIVATE ${arg_PRIVATE_LIBRARIES})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  if(name IN_LIST modules_without_torch)
    fbi_precompile(${target} plain)
  else()
    fbi_precompile(${target} torch)
  endif()
  install(TARGETS ${target} EXPORT fbiTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endfunction()
