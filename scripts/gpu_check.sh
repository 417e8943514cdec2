#!/usr/bin/env bash
# Builds the CUDA form on a machine with a GPU, runs the tests that need one and the benchmarks, and writes all of it into one
# report: commit, GPU, driver, figures, and how each part ended. The parts do not need each other: one that fails or takes too long
# is noted, with its output, and the next begins. The report is written anew after each part, so that a run that is killed leaves one.
#
#   scripts/gpu_check.sh [--quick] [--only LIST] [--cases LIST] [--build DIR] [--report FILE] [--libraries DIR]
#
#   --quick          one short training benchmark and the 1-bit runtime at 130M, instead of all
#   --only LIST      of tests, kernels, inference and training these, with commas between them, in this order
#   --cases LIST     training benchmarks of tests/bench/bench_training.py, with commas between them; without it GPU-130M, GPU-1.3B,
#                    GPU-1.3B-recompute, GPU-1.3B-next-token and GPU-1.3B-fp8-signs. Those with a teacher of 7B are for a run of
#                    their own: it is 13 GB that are written and read, on disk and in memory
#   --build DIR      where to build; build/gpu without it
#   --report FILE    the report; DIR/gpu-report.md without it
#   --libraries DIR  a folder made by `scripts/deps.sh --benchmarks --copy DIR` on a machine that has the libraries, or by --prefix DIR;
#                    .deps/debian without it, where there is one
#
# Installs nothing. Needs a GPU, the CUDA 13 toolkit, CMake, a compiler, and LibTorch 2.11: LIBTORCH_ROOT, else the one in .deps,
# else that of python3. Training is compared with tests/bench/pytorch_baseline.py where FBI_TEST_PYTHON, .deps/python-tests or python3
# can use the GPU; kernels are timed where Google Benchmark is (`scripts/deps.sh --benchmarks`).
# FBI_COMMIT=TEXT names the commit where there is no git. FBI_JOBS=N: compilers that run at once.
#
# Exit: 0 when every part that can run here did what it should; 1 otherwise, with the report written as far as it goes.
# shellcheck disable=SC2317 # functions that `part` calls
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

quick=false only='' cases='' build=build/gpu report='' libraries=''
while (($#)); do
  case $1 in
    --quick) quick=true ;;
    --only | --cases | --build | --report | --libraries)
      [[ -n ${2:-} ]] || usage_error "$1 needs a value"
      case $1 in
        --only) only=$2 ;;
        --cases) cases=$2 ;;
        --build) build=$2 ;;
        --report) report=$2 ;;
        --libraries) libraries=$2 ;;
      esac
      shift
      ;;
    -h | --help) show_help && exit ;;
    -*) usage_error "unknown option $1" ;;
    *) usage_error "unexpected argument $1" ;;
  esac
  shift
done
for group in $(tr , '\n' <<<"$only"); do
  [[ " tests kernels inference training " == *" $group "* ]] || usage_error "--only: expected some of tests, kernels, inference and training, found $group"
done
[[ -z $only || -n ${only//[ ,]/} ]] || usage_error "--only names nothing"
if [[ -n $libraries ]]; then
  [[ -f $libraries/env.sh ]] || die "$libraries is no folder of scripts/deps.sh --copy or --prefix: it has no env.sh"
  libraries=$(cd "$libraries" && pwd)
fi
cd "$repo"
report=${report:-$build/gpu-report.md}
tests=(kernels_cuda_test train_gpu_test infer_cuda_test nccl_test) # what matters most comes first
(($(nvidia-smi --list-gpus 2>/dev/null | wc -l) < 2)) || tests+=(train_gpu_ranks_test)

# --- What is here -------------------------------------------------------------------------------

gpu_field() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }

gpu=$(gpu_field name || true)
[[ -n $gpu ]] || die "no GPU is found: nvidia-smi names none. Run this on a machine with one"
toolkit=$(cuda_toolkit)
cuda_toolkit_is_13 "$toolkit" || die "no CUDA 13 toolkit: nvcc must be on PATH, in \$CUDA_HOME/bin or in /usr/local/cuda/bin"
export CUDACXX=$toolkit/bin/nvcc

if [[ -n $libraries ]]; then
  # shellcheck disable=SC1091 # written by deps.sh
  source "$libraries/env.sh"
else
  use_debian_prefix
fi

root_of_python() { python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || true; }

if [[ -z ${LIBTORCH_ROOT:-} && ! -f $deps_dir/stamps/libtorch ]]; then
  LIBTORCH_ROOT=$(root_of_python)
  [[ -n $LIBTORCH_ROOT ]] || die "no LibTorch 2.11: set LIBTORCH_ROOT to the folder that holds its include/ and lib/, or run scripts/deps.sh --cuda"
  export LIBTORCH_ROOT
fi

# The first Python whose torch sees the GPU.
find_python() {
  local candidate
  for candidate in "${FBI_TEST_PYTHON:-}" "$deps_dir/python-tests/bin/python" "$(command -v python3 || true)"; do
    if [[ -x $candidate ]] && "$candidate" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# "9.0" -> 90a, "8.6" -> 86
architecture() {
  local digits
  digits=$(gpu_field compute_cap | tr -d '. ')
  [[ $digits == 90 ]] && digits=90a
  printf '%s\n' "${digits:-native}"
}

# --- Parts --------------------------------------------------------------------------------------

mkdir -p "$build" "$(dirname "$report")"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
names=() results=() failed=0

# part NAME SECONDS COMMAND...: runs it for so long at most, its output in a log and on the terminal.
part() {
  local name=$1 limit=$2 status=0 start=$SECONDS
  shift 2
  printf 'gpu_check: %s\n' "$name"
  timeout -k 10 "$limit" "$@" >"$logs/$name" 2>&1 </dev/null || status=$?
  if ((status == 0)) && grep -F '[  SKIPPED ]' "$logs/$name" >/dev/null; then
    status="0, but tests were skipped though a GPU is here"
  fi
  if [[ $status == 124 ]]; then status="124: stopped after $limit s"; fi
  tail -n 40 "$logs/$name"
  names+=("$name")
  results+=("exit $status, $(seconds_as_minutes $((SECONDS - start)))")
  [[ $status == 0 ]] || failed=1
  write_report >"$report"
}

left_out() {
  printf 'gpu_check: %s left out: %s\n' "$1" "$2"
  names+=("$1")
  results+=("left out: $2")
}

# program NAME SECONDS FILE ARGUMENTS...: a part, or left out where FILE was not built.
program() {
  if [[ -x $3 ]]; then part "$@"; else left_out "$1" "$3 was not built" && failed=1; fi
}

asked_for() { [[ -z $only || ",${only// /}," == *",$1,"* ]]; }

configure() {
  local generator=() nccl=${LIBTORCH_ROOT:-}/../nvidia/nccl/include
  [[ -f $nccl/nccl.h ]] && export CMAKE_INCLUDE_PATH=$nccl${CMAKE_INCLUDE_PATH:+:$CMAKE_INCLUDE_PATH} # the one of this LibTorch
  if [[ ! -f $build/CMakeCache.txt ]] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  part configure 120 cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DFBI_CUDA=ON -DFBI_EXAMPLES=OFF \
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=8 -DFBI_PRECOMPILE_HEADERS=ON \
    "-DCMAKE_CUDA_ARCHITECTURES=$(architecture)" ${LIBTORCH_ROOT:+"-DLIBTORCH_ROOT=$LIBTORCH_ROOT"}
}

# What compiles is built and tested, also where something else does not.
build_all() {
  local keep_going=-k targets=("${tests[@]}" fbi-llm fbi-run unpack_share_bench)
  [[ -f $build/build.ninja ]] && keep_going=-k0
  if cmake --build "$build" --target help 2>/dev/null | grep -w cuda_kernels_bench >/dev/null; then targets+=(cuda_kernels_bench); fi
  part build 900 cmake --build "$build" -j "${FBI_JOBS:-$(default_jobs)}" --target "${targets[@]}" -- "$keep_going"
}

# Each case is a part of its own, so that its figures are there when the next one fails.
training_benches() {
  local python steps=8 case
  python=$(find_python)
  if [[ -z $python ]]; then
    left_out training "no Python whose torch sees the GPU"
    return
  fi
  if $quick; then steps=5 cases=${cases:-GPU-130M}; fi
  for case in $(tr , ' ' <<<"${cases:-GPU-130M,GPU-1.3B,GPU-1.3B-recompute,GPU-1.3B-next-token,GPU-1.3B-fp8-signs}"); do
    part "training-$case" 400 "$python" tests/bench/bench_training.py "$case" --device cuda --rounds 1 --steps "$steps" --python "$python" \
      --program "$build/bin/fbi-llm" --work "$build/bench-training" --json "$logs/training-$case.json"
  done
}

kernel_bench() {
  if [[ -x $build/bin/cuda_kernels_bench ]]; then
    part cuda_kernels_bench 180 "$build/bin/cuda_kernels_bench" --benchmark_min_time=0.05
  else
    left_out cuda_kernels_bench "Google Benchmark is not installed, or it was not built"
  fi
  program unpack_share_bench 60 "$build/bin/unpack_share_bench"
}

# Random weights: the 1-bit runtime's tokens/s, and the share of the memory's bandwidth that it reaches.
inference_benches() {
  local model cache models=(7b 1.3b)
  if $quick; then models=(130m); fi
  for model in "${models[@]}"; do
    for cache in fp32 fp16; do
      program "inference-$model-$cache" 120 "$build/bin/fbi-run" bench --config "configs/$model.json" --device cuda --cache "$cache"
    done
  done
  program inference-compare 120 "$build/bin/fbi-run" bench --config "configs/${models[0]}.json" --device cuda --compare
}

# --- The report ---------------------------------------------------------------------------------

commit() { git describe --always --dirty --abbrev=12 2>/dev/null || printf '%s\n' "${FBI_COMMIT:-unknown}"; }

# Of long logs the end: figures and failures stand there.
write_report() {
  local i
  printf '# GPU check\n\n'
  printf -- '- commit: %s\n- date: %s\n' "$(commit)" "$(date -u +%FT%TZ)"
  printf -- '- GPU: %s, driver %s, memory %s\n' "$gpu" "$(gpu_field driver_version)" "$(gpu_field memory.total)"
  printf -- '- nvcc: %s\n' "$("$CUDACXX" --version | sed -n 's/.*release //p')"
  printf -- '- LibTorch: %s\n\n' "${LIBTORCH_ROOT:-$deps_dir}"
  printf '| part | result |\n|---|---|\n'
  for i in "${!names[@]}"; do printf '| %s | %s |\n' "${names[i]}" "${results[i]}"; done
  for i in "${!names[@]}"; do
    [[ -f $logs/${names[i]} ]] || continue
    # shellcheck disable=SC2016 # a fence of Markdown
    printf '\n## %s\n\n```\n%s\n```\n' "${names[i]}" "$(tail -n 400 "$logs/${names[i]}")"
    # shellcheck disable=SC2016
    if [[ -f $logs/${names[i]}.json ]]; then printf '\n```json\n%s\n```\n' "$(cat "$logs/${names[i]}.json")"; fi
  done
}

finish() {
  write_report >"$report"
  printf 'gpu_check: the report is %s\n' "$report"
  exit "$failed"
}

# --- Main ---------------------------------------------------------------------------------------

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
configure
((failed)) && finish
build_all
if asked_for tests; then
  for test in "${tests[@]}"; do program "$test" 240 "$build/bin/$test"; done
fi
if asked_for kernels; then kernel_bench; fi
if asked_for inference; then inference_benches; fi
if asked_for training; then training_benches; fi
finish
