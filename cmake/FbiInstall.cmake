include(CMakePackageConfigHelpers)
set(_dest ${CMAKE_INSTALL_LIBDIR}/cmake/fbi)
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/fbiConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/fbiConfig.cmake" INSTALL_DESTINATION ${_dest})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/fbiConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/fbiConfig.cmake" "${PROJECT_BINARY_DIR}/fbiConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/third_party/FbiDependencies.cmake"
  "${PROJECT_SOURCE_DIR}/third_party/FindLibTorch.cmake" "${PROJECT_SOURCE_DIR}/third_party/FindXXHash.cmake"
  "${PROJECT_SOURCE_DIR}/third_party/FindSentencePiece.cmake"
  "${PROJECT_SOURCE_DIR}/third_party/FindCppHttplib.cmake" "${PROJECT_SOURCE_DIR}/third_party/FindZstd.cmake" DESTINATION ${_dest})
install(EXPORT fbiTargets NAMESPACE fbi:: DESTINATION ${_dest})
