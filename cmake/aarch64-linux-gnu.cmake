# Builds for 64-bit ARM Linux on another machine; scripts/test_arm.sh brings the libraries and uses this.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

get_filename_component(FBI_ARM_ROOT "${CMAKE_CURRENT_LIST_DIR}/../.deps/aarch64" ABSOLUTE)
set(CMAKE_FIND_ROOT_PATH "${FBI_ARM_ROOT}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_LIBDIR} "${FBI_ARM_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${FBI_ARM_ROOT}/usr/share/pkgconfig")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${FBI_ARM_ROOT}")
set(CMAKE_CXX_FLAGS_INIT "-isystem ${FBI_ARM_ROOT}/usr/include/aarch64-linux-gnu")  # OpenSSL's, for cpp-httplib
# As in the env.sh of scripts/deps.sh --prefix: programs find libraries, and the libraries of those, by their rpath.
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath,${FBI_ARM_ROOT}/usr/lib/aarch64-linux-gnu:${FBI_ARM_ROOT}/lib/aarch64-linux-gnu \
-Wl,--disable-new-dtags")

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
