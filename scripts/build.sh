#!/usr/bin/env bash
# Installs what is missing, builds, and leaves the program at build/release/bin/fbi-llm.
# Run again after a change, it builds only what the change touches.
#
#   scripts/build.sh [--cuda|--no-cuda] [--debug] [TARGET...]
#
#   --cuda      build the CUDA form (needs the CUDA 13 toolkit; also runs on machines without a GPU)
#   --no-cuda   build the CPU form
#               Without either: as in the last build; the first time the CPU form.
#   --debug     unoptimised, with debug information, into build/debug
#   TARGET      what to build, e.g. fbi-llm or core_test; everything without one
#
# FBI_JOBS=N sets how many compilers run at once (by default as many as processors and memory allow).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=release cuda='' targets=()
while (($#)); do
  case $1 in
    --cuda) cuda=ON ;;
    --no-cuda) cuda=OFF ;;
    --debug) preset=debug ;;
    -h | --help) show_help && exit ;;
    -*) usage_error "unknown option $1" ;;
    *) targets+=("$1") ;;
  esac
  shift
done
cd "$repo"
build=build/$preset
cache=$build/CMakeCache.txt

configured_cuda() { sed -n 's/^FBI_CUDA:BOOL=//p' "$cache" 2>/dev/null || true; }

toolkit=$(cuda_toolkit)
if [[ -z $cuda ]]; then cuda=$(configured_cuda); fi
if [[ -z $cuda ]]; then cuda=OFF; fi

deps=(scripts/deps.sh)
if [[ $cuda == ON ]]; then
  cuda_toolkit_is_13 "$toolkit" || die "--cuda needs the CUDA 13 toolkit: nvcc on PATH, in \$CUDA_HOME or in /usr/local/cuda"
  export CUDACXX=$toolkit/bin/nvcc
  deps+=(--cuda)
fi
"${deps[@]}"
use_debian_prefix

# CMake itself follows changes of its files; a new choice of form, or a configuration that never
# finished, is all that is left to do here.
if [[ ! -f $build/build.ninja || $(configured_cuda) != "$cuda" ]]; then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  echo "build: configuring $build"
  if ! cmake --preset "$preset" -DFBI_CUDA="$cuda" >"$log" 2>&1; then
    cat "$log" >&2
    die "cmake could not configure $build (see above)"
  fi
fi

ninja -C "$build" -j "${FBI_JOBS:-$(default_jobs)}" "${targets[@]}" ||
  die "the build stopped at the error above"

if [[ -x $build/bin/fbi-llm ]]; then
  next=''
  ((${#targets[@]})) || next=". Next: scripts/quickstart.sh, or $build/bin/fbi-llm --help"
  echo "build: the program is $build/bin/fbi-llm$next"
fi
