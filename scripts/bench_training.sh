#!/usr/bin/env bash
# Times training steps of this program and of a plain PyTorch trainer with the published method's costs
# (tests/bench/pytorch_baseline.py) in turn: same shapes, data and threads or GPU. Prints tokens/s, processor time and
# peak memory of both, and the ratios.
#
#   scripts/bench_training.sh [CASE...] [OPTION...]
#   scripts/bench_training.sh --scaling [CASE...]        ours alone: what a token costs, over 4 sizes and 4 token counts per step
#   scripts/bench_training.sh --binarization [CASE...]   ours alone: one-bit weights against dense ones, 10 micro-steps
#   scripts/bench_training.sh --products [CASE...]       ours alone: by each of train.sign_products
#
#   CASE             S (256 x 6 layers, vocabulary 4,096), M (the 130M student with a 270M teacher), M-low-memory; all without one,
#                    with --binarization or --products S; with --scaling HIDDENxLAYERS[-TOKENS], with --device cuda GPU-…: see
#                    tests/bench/bench_training.py
#   --rounds N --steps N --warmup N --threads N   how often both run, in turn; steps of each, and those that do not count
#   --preload LIB    one more allocator for the baseline: each round runs it with glibc's as it is, with freed memory kept, with that
#                    of fbi-llm and with this one, and the fastest is compared
#   --device cuda    in bf16 on a GPU
#   --program FILE   fbi-llm; without it build/release/bin/fbi-llm, which is built first
#   --work DIR       where data and teachers stay; build/bench-training without it
#   --json FILE      write the figures here, too
#
# Needs the Python of the tests (scripts/deps.sh --python-tests), or FBI_TEST_PYTHON. Results: docs/benchmarks.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments=("$@") built=false
while (($#)); do
  case $1 in
    S | M | M-low-memory | GPU-* | [0-9]*x[0-9]* | --scaling | --binarization | --products) ;;
    --rounds | --steps | --warmup | --threads | --preload | --device | --program | --work | --json)
      (($# > 1)) || usage_error "$1 needs a value"
      [[ $1 != --program ]] || built=true
      shift
      ;;
    -h | --help) show_help && exit ;;
    -*) usage_error "unknown option $1" ;;
    *) usage_error "unknown case $1" ;;
  esac
  shift
done
cd "$repo"
python=${FBI_TEST_PYTHON:-$deps_dir/python-tests/bin/python}
[[ -x $python ]] || die "the baseline needs Python with torch: run scripts/deps.sh --python-tests, or set FBI_TEST_PYTHON"
$built || scripts/build.sh fbi-llm
use_debian_prefix
use_short_spins
exec "$python" tests/bench/bench_training.py --python "$python" "${arguments[@]}"
