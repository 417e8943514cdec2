#!/usr/bin/env bash
# Installs what the build needs and is missing. Does nothing, in a moment, when all is there.
#
#   scripts/deps.sh                 Debian packages (apt-get, with sudo when you are not root) and
#                                   LibTorch (a wheel, into .deps)
#   scripts/deps.sh --prefix DIR    without root: the Debian packages are downloaded and unpacked into
#                                   DIR instead; build.sh finds them by itself in .deps/debian, elsewhere
#                                   source DIR/env.sh before you run cmake or build.sh
#   scripts/deps.sh --copy DIR      installs nothing: copies the files of the Debian packages that are installed here into DIR (31 MB),
#                                   for a machine of this kind that has none of them and no network (gpu_check.sh --libraries)
#   scripts/deps.sh --cuda          also what a CUDA build links and loads
#   scripts/deps.sh --python-tests  also .deps/python-tests, a Python with torch and transformers for the
#                                   tests that compare with them
#   scripts/deps.sh --benchmarks    also Google Benchmark, for the benchmarks of kernels
#   scripts/deps.sh --cluster-tests  also Slurm, for the tests that submit jobs to one of their own (root only)
#
# On a system without apt-get it prints what to install; libraries in a folder of your own are found
# through CMAKE_PREFIX_PATH. LIBTORCH_ROOT=DIR (the folder that holds include/ and lib/ of LibTorch 2.11)
# uses that LibTorch instead of the wheel. Versions and licences: third_party/README.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

third_party=$repo/third_party
stamps=$deps_dir/stamps
tools=(g++ cmake ninja ccache git pkg-config) # what counts is the program, wherever it comes from
declare -A package_of=([g++]=g++ [cmake]=cmake [ninja]=ninja-build [ccache]=ccache [git]=git
  [pkg-config]=pkg-config)

say() { printf 'deps: %s\n' "$*"; }

# --- Debian packages ----------------------------------------------------------------------------

# The package that has it is called otherwise on some systems, so what counts is the library.
tcmalloc_package=libtcmalloc-minimal4

missing_packages() {
  local tool
  for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || printf '%s\n' "${package_of[$tool]}"
  done
  if [[ -z ${LIBTORCH_ROOT:-} && ! -f $stamps/libtorch ]] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo python3-venv
  fi
  have_library libtcmalloc_minimal.so.4 || echo $tcmalloc_package
  { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${library_packages[@]}" 2>/dev/null || true; } |
    awk '$1 == "installed" { print $2 }' |
    sort | comm -13 - <(printf '%s\n' "${library_packages[@]}" | sort)
}

# The missing packages less those that a folder made by --prefix holds.
still_missing() {
  local have=/dev/null
  [[ -f ${FBI_DEBIAN_PREFIX:-$debian_prefix}/packages ]] && have=${FBI_DEBIAN_PREFIX:-$debian_prefix}/packages
  missing_packages | grep -vxFf "$have" || true
}

print_package_list() {
  cat <<EOF
deps: no apt-get here. Please install with your system's package manager:
  a C++20 compiler (g++ 12 or newer), CMake 3.25, Ninja, git, Python 3.10 with venv and pip, pkg-config, ccache (optional)
  cxxopts 3, spdlog 1.10, nlohmann_json 3.11, simdjson 3, SentencePiece 0.1.97 (with sentencepiece_train),
  xxHash 0.8.1, zlib, zstd 1.4.4, cpp-httplib 0.11, GoogleTest 1.12 (with gmock), the headers of gloo and SIMDe 0.7.4 (optional),
  tcmalloc of gperftools (optional)
deps: libraries in folders of your own are found through CMAKE_PREFIX_PATH=DIR1:DIR2
EOF
}

install_as_root() {
  local as_root=() apt
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "no sudo here. Without root: scripts/deps.sh --prefix .deps/debian
Or ask an administrator for: $*"
    as_root=(sudo)
    [[ -t 0 ]] || as_root=(sudo -n)
  fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install "$@")
  say "apt-get install $*"
  if ! "${apt[@]}" >/dev/null 2>&1 </dev/null; then # most often the package lists are missing or old
    quietly "${as_root[@]}" apt-get -q update
    quietly "${apt[@]}"
  fi
}

# Unpacks packages, and their dependencies that the system lacks, into a folder.
install_into_prefix() {
  local prefix=$1 apt names work
  shift
  command -v g++ >/dev/null || die "there is no g++, and a compiler cannot be brought without root
(load a module, or conda's gxx, and run this again)"
  work=$prefix/.download
  rm -rf "$work"
  mkdir -p "$work/lists/partial" "$work/archives/partial"
  apt=(apt-get -q)
  if ! "${apt[@]}" -s --no-install-recommends install "$@" >/dev/null 2>&1; then
    apt+=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work")
    quietly "${apt[@]}" update
  fi
  # An unpacked python3-venv would not be found by Python; pip can be.
  names=$("${apt[@]}" -s --no-install-recommends install "${@/python3-venv/python3-pip}" |
    awk '$1 == "Inst" { print $2 }') || die "apt-get cannot resolve: $*"
  say "unpacking into $prefix: $(tr '\n' ' ' <<<"$names")"
  # shellcheck disable=SC2086 # a list of names
  (cd "$work" && quietly "${apt[@]}" download $names)
  local archive
  for archive in "$work"/*.deb; do
    dpkg -x "$archive" "$prefix"
  done
  rm -rf "$work"
  write_prefix_environment "$prefix"
  printf '%s\n' "$@" >>"$prefix/packages" # last: says that the folder is complete
}

write_prefix_environment() {
  local prefix=$1 multiarch
  multiarch=$(gcc -print-multiarch 2>/dev/null || true)
  # Programs find the unpacked libraries by their rpath, not by the environment: --disable-new-dtags
  # makes it serve the libraries of the libraries too.
  cat >"$prefix/env.sh" <<EOF
# Makes the packages of this folder visible to CMake, the linker and the shell: source it.
# The folder may have been carried to another place.
FBI_DEBIAN_PREFIX=\$(cd "\$(dirname "\${BASH_SOURCE[0]:-\$0}")" && pwd)
export FBI_DEBIAN_PREFIX
export PATH="\$FBI_DEBIAN_PREFIX/usr/bin:\$PATH"
export CMAKE_PREFIX_PATH="\$FBI_DEBIAN_PREFIX/usr\${CMAKE_PREFIX_PATH:+:\$CMAKE_PREFIX_PATH}"
export PKG_CONFIG_PATH="\$FBI_DEBIAN_PREFIX/usr/lib/$multiarch/pkgconfig:\$FBI_DEBIAN_PREFIX/usr/share/pkgconfig"
export PKG_CONFIG_SYSROOT_DIR="\$FBI_DEBIAN_PREFIX"
export LDFLAGS="-Wl,-rpath,\$FBI_DEBIAN_PREFIX/usr/lib/$multiarch -Wl,--disable-new-dtags \${LDFLAGS:-}"
EOF
  if [[ -x $prefix/usr/bin/cmake || -x $prefix/usr/bin/ninja || -x $prefix/usr/bin/git ]]; then
    # The unpacked programs themselves need their libraries.
    printf '%s\n' "export LD_LIBRARY_PATH=\"\$FBI_DEBIAN_PREFIX/usr/lib/$multiarch\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\"" \
      >>"$prefix/env.sh"
  fi
}

# Packages and all that they depend on, of those that are installed here.
with_dependencies() {
  apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    sed -n 's/^\([a-z0-9][^:]*\).*/\1/p' | sort -u
}

# The libraries' files here, less those that come with a compiler and Python.
copy_libraries() {
  local prefix=$1 missing libraries names
  command -v apt-cache >/dev/null || die "--copy copies the files of Debian packages: there is no apt-cache here"
  missing=$(missing_packages | paste -sd ' ')
  [[ -z $missing ]] || die "--copy copies what is installed, and this is not: $missing. Run scripts/deps.sh first"
  mapfile -t libraries < <(printf '%s\n' "${library_packages[@]}" | grep -vx libgloo-dev) # of which the headers are used alone
  names=$(comm -23 <(with_dependencies "${libraries[@]}" $tcmalloc_package) <(with_dependencies g++ python3))
  # shellcheck disable=SC2086 # a list of names
  dpkg-query -L libgloo-dev $names | sed -nE 's,^/(usr/(include|lib|share/cmake|share/pkgconfig)/),\1,p' |
    tar -C / --no-recursion -cf - -T - | tar -C "$prefix" -xf -
  write_prefix_environment "$prefix"
  printf '%s\n' "${library_packages[@]}" $tcmalloc_package >"$prefix/packages"
}

debian_packages() {
  local prefix=$1 missing
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    [[ -f $stamps/told ]] || print_package_list
    touch "$stamps/told"
    return
  fi
  if [[ -n $prefix && -f $prefix/env.sh ]]; then
    # shellcheck disable=SC1091 # written by this script
    source "$prefix/env.sh"
  fi
  mapfile -t missing < <(still_missing)
  if ((${#missing[@]} == 0)); then
    return
  elif [[ -z $prefix ]]; then
    install_as_root "${missing[@]}"
  else
    install_into_prefix "$prefix" "${missing[@]}"
  fi
}

# --- Wheels -------------------------------------------------------------------------------------

# make_venv DIR: a fresh Python environment with pip.
make_venv() {
  local dir=$1
  python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
    die "the wheels of LibTorch 2.11 are for Python 3.10 to 3.14; this is $(python3 --version 2>&1)"
  if python3 -c 'import ensurepip' 2>/dev/null; then
    quietly python3 -m venv "$dir"
  else # pip is that of the unpacked python3-pip
    quietly python3 -m venv --without-pip "$dir"
  fi
}

# install_wheels DIR REQUIREMENTS...: exactly the listed wheels, without their dependencies.
install_wheels() {
  local dir=$1 file arguments=() run=(quietly)
  shift
  for file in "$@"; do arguments+=(-r "$file"); done
  [[ -t 1 ]] && run=(command) # let pip show how far the download is
  PYTHONPATH=${FBI_DEBIAN_PREFIX:+$FBI_DEBIAN_PREFIX/usr/lib/python3/dist-packages} \
    "${run[@]}" "$dir/bin/python" -m pip install --no-deps --no-compile --ignore-installed \
    --disable-pip-version-check "${arguments[@]}" ||
    die "pip could not install ${*##*/}; run this again when the network is back (what is half there is replaced)"
}

# done_before NAME REQUIREMENTS...: whether this set was completely installed. Sets stamp and want.
done_before() {
  local name=$1
  shift
  stamp=$stamps/$name
  want=$(cat "$@" | sha256_of)
  [[ -f $stamp && $(<"$stamp") == "$want" ]]
}

libtorch() {
  local stamp want
  if [[ -n ${LIBTORCH_ROOT:-} ]]; then
    [[ -f $LIBTORCH_ROOT/include/torch/headeronly/version.h ]] ||
      die "LIBTORCH_ROOT=$LIBTORCH_ROOT holds no LibTorch 2.11: include/torch/headeronly/version.h is missing"
    return
  fi
  done_before libtorch "$third_party/requirements.txt" &&
    compgen -G "$deps_dir/lib/python3*/site-packages/torch/lib/libtorch_cpu.so" >/dev/null && return
  say "LibTorch into .deps (a download of 500 MB, 1.1 GB on disk; about a minute)"
  # Without its stamp the folder may hold half of an installation: start from nothing.
  rm -rf "${stamps:?}"/{libtorch,cuda,python-tests} "${deps_dir:?}"/{bin,include,lib,lib64,pyvenv.cfg}
  make_venv "$deps_dir"
  install_wheels "$deps_dir" "$third_party/requirements.txt"
  printf '%s\n' "$want" >"$stamp"
}

libtorch_cuda() {
  local stamp want files=("$third_party/requirements-cuda.txt")
  [[ -n ${LIBTORCH_ROOT:-} ]] && return
  # Of NCCL the version that LibTorch was built with: src/distributed/nccl_group.cpp.
  if ! cuda_toolkit_is_13 "$(cuda_toolkit)" || ! have_library libcudnn.so.9 || ! have_library libnccl.so.2 ||
    ! grep -qs 'define NCCL_MINOR 28' /usr/include/nccl.h "$(cuda_toolkit)/include/nccl.h"; then
    files+=("$third_party/requirements-cuda-toolkit.txt")
  fi
  done_before cuda "${files[@]}" && return
  say "the CUDA libraries that LibTorch loads, into .deps (230 MB; 2 GB without a CUDA 13.0 toolkit with NCCL and cuDNN)"
  rm -f "$stamp"
  install_wheels "$deps_dir" "${files[@]}"
  printf '%s\n' "$want" >"$stamp"
}

python_tests() {
  local stamp want dir=$deps_dir/python-tests
  [[ -z ${LIBTORCH_ROOT:-} ]] || die "--python-tests needs the LibTorch wheel in .deps: unset LIBTORCH_ROOT"
  libtorch_cuda # `import torch` loads libtorch_cuda.so even where there is no GPU
  done_before python-tests "$third_party/requirements-python-tests.txt" &&
    "$dir/bin/python" -c '' 2>/dev/null && return
  say "Python with transformers into .deps/python-tests (52 MB)"
  rm -rf "$stamp" "$dir"
  make_venv "$dir"
  install_wheels "$dir" "$third_party/requirements-python-tests.txt"
  local site
  for site in "$dir"/lib/python3*/site-packages; do # torch is the one of .deps, not a second gigabyte
    printf '%s\n' "$deps_dir"/lib/python3*/site-packages >"$site/libtorch.pth"
  done
  quietly "$dir/bin/python" -c 'import torch, transformers' ||
    die "$dir cannot import torch and transformers"
  printf '%s\n' "$want" >"$stamp"
}

# --- Main ---------------------------------------------------------------------------------------

main() {
  local prefix='' copy='' cuda=false python=false cluster=false
  while (($#)); do
    case $1 in
      --prefix | --copy)
        [[ -n ${2:-} ]] || usage_error "$1 needs a folder"
        mkdir -p "$2"
        if [[ $1 == --copy ]]; then copy=$(cd "$2" && pwd); else prefix=$(cd "$2" && pwd); fi
        shift
        ;;
      --cuda) cuda=true ;;
      --python-tests) python=true ;;
      --cluster-tests) cluster=true ;;
      --benchmarks) library_packages+=(libbenchmark-dev) ;;
      -h | --help) show_help && exit ;;
      *) usage_error "unknown option $1" ;;
    esac
    shift
  done

  if $cluster; then
    [[ -z $prefix ]] || usage_error "--cluster-tests and --prefix exclude each other: Slurm's daemons need root"
    library_packages+=(slurm-wlm munge iproute2)
  fi
  if [[ -n $copy ]]; then
    copy_libraries "$copy"
    say "the libraries are in $copy; on the other machine: scripts/gpu_check.sh --libraries DIR, or source DIR/env.sh"
    return
  fi
  mkdir -p "$stamps"
  exec 9>"$deps_dir/lock"
  flock 9 # two builds that start together install once
  debian_packages "$prefix"
  libtorch
  if $cuda; then libtorch_cuda; fi
  if $python; then python_tests; fi
  if [[ -n $prefix ]]; then
    if [[ ! -f $prefix/env.sh ]]; then
      say "nothing was missing, so nothing was unpacked into $prefix"
    elif [[ $prefix == "$debian_prefix" ]]; then
      say "build.sh and test.sh use $prefix by themselves; for cmake by hand: source $prefix/env.sh"
    else
      say "before cmake or build.sh: source $prefix/env.sh"
    fi
  fi
}

main "$@"
