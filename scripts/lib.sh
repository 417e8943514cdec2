# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, never run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps_dir=$repo/.deps
# shellcheck disable=SC2034 # used by the scripts that source this
debian_prefix=$deps_dir/debian # what `deps.sh --prefix .deps/debian` fills and build.sh picks up

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

usage_error() {
  printf '%s: %s\nTry: %s --help\n' "$(basename "$0")" "$1" "$0" >&2
  exit 2
}

# Prints the comment block at the top of the script: the text of --help.
show_help() {
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

sha256_of() { sha256sum | cut -c1-64; }

# Runs a command with its output in a log that is shown only when the command fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if ((status != 0)); then
    cat "$log" >&2
    printf 'This command failed (exit %d): %s\n' "$status" "$*" >&2
  fi
  rm -f "$log"
  return "$status"
}

# The folder of a CUDA toolkit, or nothing.
cuda_toolkit() {
  local nvcc
  nvcc=$(command -v nvcc || true)
  for nvcc in "$nvcc" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" /usr/local/cuda/bin/nvcc; do
    if [[ -x $nvcc ]]; then
      (cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
      return
    fi
  done
}

cuda_toolkit_is_13() {
  local root=$1
  [[ -n $root ]] && "$root/bin/nvcc" --version | grep 'release 13\.' >/dev/null
}

# Debian packages of the libraries that everything is built with.
library_packages=(libcxxopts-dev libspdlog-dev nlohmann-json3-dev libsimdjson-dev libsentencepiece-dev
  libxxhash-dev zlib1g-dev libzstd-dev libcpp-httplib-dev libgloo-dev libgtest-dev libgmock-dev libsimde-dev)

# Whether the loader finds a library of this name (by its cache, or in the toolkit).
have_library() {
  PATH=$PATH:/sbin ldconfig -p 2>/dev/null | grep -F "$1" >/dev/null || compgen -G "$(cuda_toolkit)/lib64/$1*" >/dev/null
}

seconds_as_minutes() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# Makes the packages that deps.sh unpacked without root visible, where there are some.
use_debian_prefix() {
  if [[ -f $debian_prefix/env.sh && ${FBI_DEBIAN_PREFIX:-} != "$debian_prefix" ]]; then
    # shellcheck disable=SC1091 # written by deps.sh
    source "$debian_prefix/env.sh"
  fi
}

# How many compilers to run at once.
default_jobs() {
  local processors memory_mb fit
  processors=$(nproc)
  memory_mb=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  fit=$((memory_mb / 1500)) # a file that includes LibTorch takes up to 1.3 GB
  echo $((fit < 1 ? 1 : fit < processors ? fit : processors))
}

# OpenMP threads wait for work by spinning. By default they spin for milliseconds, which takes the processor from the others
# where more threads than processors are busy (eight times slower); not at all, and every small operation pays for waking
# them (1.6 times slower). Some ten microseconds avoid both.
use_short_spins() { export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000}; }
