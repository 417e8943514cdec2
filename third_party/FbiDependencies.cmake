# Resolves every library that fbi uses, for the build and for an installed package alike.  Nothing is
# downloaded here: scripts/deps.sh installs, third_party/README.md lists versions and licences.
# A folder made by `scripts/deps.sh --prefix DIR` is found through CMAKE_PREFIX_PATH=DIR/usr.
set(FBI_LIBTORCH_VERSION 2.11.0)

find_package(Threads REQUIRED)
find_package(cxxopts 3 REQUIRED)
find_package(spdlog 1.10 REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(simdjson 3 REQUIRED)
find_package(XXHash 0.8.1 REQUIRED)
find_package(CppHttplib 0.11 REQUIRED)
find_package(SentencePiece 0.1.97 REQUIRED)
find_package(ZLIB 1.2.11 REQUIRED)
find_package(Zstd 1.4.4 REQUIRED)
if(FBI_TORCH OR fbi_TORCH)
  if(FBI_CUDA OR fbi_CUDA)
    find_package(LibTorch ${FBI_LIBTORCH_VERSION} EXACT REQUIRED COMPONENTS CUDA)
  else()
    find_package(LibTorch ${FBI_LIBTORCH_VERSION} EXACT REQUIRED)
  endif()
  get_filename_component(LIBTORCH_ROOT_FOUND "${LibTorch_INCLUDE_DIR}" DIRECTORY)
endif()
