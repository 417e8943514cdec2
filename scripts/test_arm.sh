#!/usr/bin/env bash
# Builds everything that needs no LibTorch for 64-bit ARM Linux on another machine, and runs its tests and fbi-run in
# the emulator qemu. On an ARM machine itself, use build.sh and test.sh.
#
#   scripts/test_arm.sh
#
# Needs Debian or Ubuntu with the packages g++-aarch64-linux-gnu and qemu-user; brings the libraries by apt-get download
# into .deps/aarch64 (45 MB on disk), without root and without touching the system's package lists.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

root=$deps_dir/aarch64
mapfile -t packages < <(printf '%s\n' "${library_packages[@]}" | grep -vxE 'lib(gloo|simde)-dev') # of use with LibTorch, and on x86
# What the cross compiler has of its own.
of_compiler='^(libc6|libc6-dev|libc-dev-bin|linux-libc-dev|libgcc-s1|gcc-.*-base|libstdc\+\+6)$'

unpack_libraries() {
  local work=$root/.download names archive apt
  rm -rf "$root"
  mkdir -p "$work/lists/partial" "$work/archives/partial"
  : >"$work/status" # nothing is installed for that processor
  apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State::status=$work/status"
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work")
  quietly "${apt[@]}" update
  names=$("${apt[@]}" -s --no-install-recommends install "${packages[@]}" |
    awk '$1 == "Inst" { print $2 }' | grep -vE "$of_compiler") || die "apt-get cannot resolve: ${packages[*]}"
  # shellcheck disable=SC2086 # a list of names
  (cd "$work" && quietly "${apt[@]}" download $names)
  for archive in "$work"/*.deb; do dpkg -x "$archive" "$root"; done
  rm -rf "$work"
  printf '%s\n' "${packages[*]}" >"$root/complete"
}

while (($#)); do
  case $1 in
    -h | --help) show_help && exit ;;
    *) usage_error "unknown option $1" ;;
  esac
done
for program in aarch64-linux-gnu-g++ qemu-aarch64 apt-get; do
  command -v "$program" >/dev/null || die "there is no $program here; sudo apt-get install g++-aarch64-linux-gnu qemu-user"
done
cd "$repo"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
use_debian_prefix
if [[ $(cat "$root/complete" 2>/dev/null) != "${packages[*]}" ]]; then
  echo "test_arm: libraries for ARM into $root"
  unpack_libraries
fi
quietly cmake --preset aarch64
ninja -C build/aarch64 -j "${FBI_JOBS:-$(default_jobs)}"
emulator=(qemu-aarch64 -L /usr/aarch64-linux-gnu)
failed=()
for program in build/aarch64/bin/*_test; do
  # qemu does not pass on the advice to drop pages, which this test measures.
  echo "test_arm: $(basename "$program")"
  "${emulator[@]}" "$program" --gtest_brief=1 --gtest_filter=-JsonLines.TheFileIsNeverInMemoryAsAWhole >"$log" 2>&1 || {
    cat "$log"
    failed+=("$(basename "$program")")
  }
  grep -E '^\[  PASSED' "$log" || true
done

# A model with random weights tells one story at every level, and, where it is built, on this processor.
rm -rf build/aarch64/model
scripts/make_stories.py --out build/aarch64/stories.txt --bytes 20000
"${emulator[@]}" build/aarch64/bin/make_packed_model build/aarch64/model build/aarch64/stories.txt
story() { "$@" generate --model build/aarch64/model --prompt "This is" --max-new-tokens 200 --temperature 0.8 --seed 1 2>/dev/null; }
expected=$(FBI_KERNEL=ref story "${emulator[@]}" build/aarch64/bin/fbi-run)
[[ $(story "${emulator[@]}" build/aarch64/bin/fbi-run) == "$expected" ]] || failed+=("the story of level neon")
if [[ -x build/release/bin/fbi-run ]]; then
  [[ $(story build/release/bin/fbi-run) == "$expected" ]] || failed+=("the story on this processor")
fi
if ((${#failed[@]})); then die "failed: ${failed[*]}"; fi
echo "test_arm: all passed; fbi-run tells the same story at every level"
