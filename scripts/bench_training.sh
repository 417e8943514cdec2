#!/usr/bin/env bash
# Times training steps of this program and of a plain PyTorch trainer with the published method's costs
# (tests/bench/pytorch_baseline.py) in turn: same shapes, data and threads. Prints tokens/s, processor time and
# peak memory of both, and the ratios.
#
#   scripts/bench_training.sh [CASE...] [--rounds N] [--steps N] [--warmup N] [--threads N] [--json FILE]
#   scripts/bench_training.sh --scaling [CASE...]        ours alone: what a token costs, over 4 sizes and 4 token counts per step
#   scripts/bench_training.sh --binarization [CASE...]   ours alone: one-bit weights against dense ones, 10 micro-steps
#
#   CASE   S (256 x 6 layers, vocabulary 4,096), M (the 130M student with a 270M teacher), M-low-memory; all without one, with
#          --binarization S; with --scaling HIDDENxLAYERS[-TOKENS], see tests/bench/bench_training.py
#
# Needs the Python of the tests (scripts/deps.sh --python-tests), or FBI_TEST_PYTHON. Results: docs/benchmarks.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments=("$@")
while (($#)); do
  case $1 in
    S | M | M-low-memory | [0-9]*x[0-9]* | --scaling | --binarization) ;;
    --rounds | --steps | --warmup | --threads | --json)
      (($# > 1)) || usage_error "$1 needs a value"
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
scripts/build.sh fbi-llm
use_debian_prefix
use_short_spins
exec "$python" tests/bench/bench_training.py --python "$python" "${arguments[@]}"
