#!/usr/bin/env bash
# Times llama.cpp and the 1-bit runtime (fbi-run bench) in turn: random weights of the same shapes, a prompt, then token by
# token, the same threads. Prints tokens/s, the bytes that a token reads, the machine's read bandwidth at that size, and the
# ratios. llama.cpp runs F16 and its one-bit type Q1_0 (one scale for 128 weights, activations in 8 bits), by each of several ways
# (flash attention or not, passes of 64 or 512 tokens of a prompt); the fastest is compared.
#
#   scripts/bench_inference.sh --setup
#   scripts/bench_inference.sh [CASE...] [--rounds N] [--prompt-tokens LIST] [--new-tokens N] [--texts N] [--threads N] [--program FILE] [--json FILE]
#
#   --setup         compiles llama.cpp for this machine into .deps/llama-cpp (the source package llama-cpp-python; ten minutes)
#   --program FILE  the fbi-run to measure; without it build/release/bin/fbi-run, built first
#   --prompt-tokens LIST  lengths of the prompts to decode behind, with commas between them; 64,512 without it: after 64 tokens
#                   weights are nearly all that a token reads, after 512 attention counts, too
#   --texts N       texts that are decoded together, as a server does for its clients; 1 without it
#   CASE            130m, 1.3b (writes 3 GB into build/bench-inference); both without one
#
# Needs the Python of the tests (scripts/deps.sh --python-tests), or FBI_TEST_PYTHON. FBI_LLAMA_CPP=DIR takes the package
# llama_cpp from another folder. Nothing else should run on the machine.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments=() setup=false program=''
while (($#)); do
  case $1 in
    130m | 1.3b) arguments+=("$1") ;;
    --rounds | --prompt-tokens | --new-tokens | --texts | --threads | --json)
      (($# > 1)) || usage_error "$1 needs a value"
      arguments+=("$1" "$2")
      shift
      ;;
    --program)
      (($# > 1)) || usage_error "$1 needs a value"
      program=$2
      shift
      ;;
    --setup) setup=true ;;
    -h | --help) show_help && exit ;;
    -*) usage_error "unknown option $1" ;;
    *) usage_error "unknown case $1" ;;
  esac
  shift
done

python=${FBI_TEST_PYTHON:-$deps_dir/python-tests/bin/python}
llama_cpp=${FBI_LLAMA_CPP:-$deps_dir/llama-cpp}
[[ -x $python ]] || die "llama.cpp needs a Python with numpy: run scripts/deps.sh --python-tests, or set FBI_TEST_PYTHON"
if $setup; then
  [[ ! -e $llama_cpp ]] || die "$llama_cpp is there already; remove it to compile it anew"
  rm -rf "$llama_cpp.part" # of an interrupted run
  "$python" -m pip install --disable-pip-version-check --no-deps --target "$llama_cpp.part" llama-cpp-python==0.3.36 diskcache==5.6.3
  mv "$llama_cpp.part" "$llama_cpp"
  exit
fi
[[ -d $llama_cpp/llama_cpp ]] || die "there is no llama_cpp in $llama_cpp: run $0 --setup"
if [[ -z $program ]]; then
  program=$repo/build/release/bin/fbi-run
  "$repo/scripts/build.sh" fbi-run
fi
use_debian_prefix
exec "$python" "$repo/tests/bench/bench_inference.py" --python "$python" --llama-cpp "$llama_cpp" --program "$program" "${arguments[@]}"
