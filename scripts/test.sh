#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. Ends with a table of the stages, their minutes and
# results; exit status 0 means that all passed.
#
#   scripts/test.sh [--no-python] [--no-sanitizers]
#
#   --no-python      without the tests that compare with Python's torch and transformers (these need
#                    0.4 GB in .deps, 2 GB without the CUDA 13 toolkit; they are then reported as skipped)
#   --no-sanitizers  without the build and tests under AddressSanitizer and UndefinedBehaviorSanitizer
#
# FBI_JOBS=N sets how many compilers run at once, FBI_TEST_JOBS=N how many tests (3).
# A single test: scripts/build.sh, then ctest --test-dir build/release -R NAME --output-on-failure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

python=true sanitizers=true
while (($#)); do
  case $1 in
    --no-python) python=false ;;
    --no-sanitizers) sanitizers=false ;;
    -h | --help) show_help && exit ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
cd "$repo"

names=() minutes=() results=()

# stage NAME COMMAND...: runs, times and remembers one stage.
stage() {
  local name=$1 start=$SECONDS status=0
  shift
  printf '\n=== %s\n' "$name"
  "$@" || status=$? # (bash: set -e is off inside, so stages join their commands with &&)
  names+=("$name")
  minutes+=("$(seconds_as_minutes $((SECONDS - start)))")
  results+=("$( ((status == 0)) && echo passed || echo "FAILED ($status)")")
  return "$status"
}

# shellcheck disable=SC2317 # called by the trap
finish() {
  local status=$? i
  printf '\n%-36s %8s  %s\n' stage 'min:sec' result
  for i in "${!names[@]}"; do
    printf '%-36s %8s  %s\n' "${names[i]}" "${minutes[i]}" "${results[i]}"
    [[ ${results[i]} == passed ]] || status=1
  done
  printf '%-36s %8s  %s\n' total "$(seconds_as_minutes $SECONDS)" "$( ((status == 0)) && echo passed || echo FAILED)"
  exit "$status"
}
trap finish EXIT

dependencies() {
  local options=()
  if $python; then options+=(--python-tests); fi
  if ((EUID == 0)); then options+=(--cluster-tests); fi # elsewhere these tests are skipped
  scripts/deps.sh "${options[@]}"
}

run_ctest() { # PRESET
  ctest --preset "$1" -j "${FBI_TEST_JOBS:-3}"
}

sanitizer_tests() {
  cmake --preset asan >/dev/null &&
    ninja -C build/asan -j "${FBI_JOBS:-$(default_jobs)}" &&
    run_ctest asan
}

use_short_spins
stage 'dependencies' dependencies
use_debian_prefix
if $python; then
  export FBI_TEST_PYTHON=$deps_dir/python-tests/bin/python
  export PATH=$PATH:$deps_dir/python-tests/bin # clang-format and shellcheck, where the system has none
fi
# The build then compiles the CUDA kernels, too, without using them.
toolkit=$(cuda_toolkit)
if cuda_toolkit_is_13 "$toolkit"; then
  export CUDACXX=$toolkit/bin/nvcc
  echo "CUDA kernels: compiled by $CUDACXX"
else
  echo 'CUDA kernels: NOT compiled, there is no CUDA 13 toolkit; their sources are tested on the processor'
fi
stage 'build' scripts/build.sh
# From here on a failure does not keep the later stages from telling what they find.
stage 'tests' run_ctest release || true
if $sanitizers; then
  stage 'tests under sanitizers' sanitizer_tests || true
fi
