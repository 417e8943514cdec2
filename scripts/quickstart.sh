#!/usr/bin/env bash
# The whole of FBI-LLM, small enough for a laptop: makes a corpus of children's stories and a tokenizer, trains a
# full-precision teacher, distils a student whose decoder weights are one bit each, measures both, exports the student as a
# Hugging Face model and as packed bits, lets the bits tell a story and draws the loss curves. Everything goes into quickstart/.
#
#   scripts/quickstart.sh [--cuda|--no-cuda] [--fresh]
#
#   --cuda, --no-cuda   as for scripts/build.sh
#   --fresh             forget earlier results and start over
#
# Stop it whenever you like (Ctrl-C, or harder): run again, it continues where it was. Stages whose inputs
# have not changed are not repeated. After the build: 4 minutes on 2 cores; needs no network.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build_options=() fresh=false
while (($#)); do
  case $1 in
    --cuda | --no-cuda) build_options=("$1") ;;
    --fresh) fresh=true ;;
    -h | --help) show_help && exit ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
cd "$repo"
use_short_spins
out=quickstart
fbi=build/release/bin/fbi-llm
fbi_run=build/release/bin/fbi-run
prompt='Once upon a time'

echo "Distilling a 1-bit LLaMA, from nothing to a story. Results go into $out/."
scripts/build.sh "${build_options[@]}" fbi-llm fbi-run
use_debian_prefix

mkdir -p "$out"
# The programs that this script starts inherit the lock: it is free when the last of them has ended.
exec 9>"$out/.lock"
if ! flock -n 9; then
  echo "Another quickstart works in $out/; waiting for it to stop..."
  flock -w 120 9 || die "it is still running: let it finish, or stop it"
fi
if $fresh; then
  find "$out" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
fi
stamps=$out/.stamps
mkdir -p "$stamps"

stage_number=0 stages=10 chain=''

# stage NAME OUTPUT keep|replace TITLE [INPUT FILE...] -- COMMAND...
# Runs one stage unless it was completed with the same command, input files and stages before it. An output
# that a stopped stage left is continued (keep) or replaced; one of other inputs is always replaced.
stage() {
  local name=$1 output=$2 unfinished=$3 title=$4 inputs=() want status=0 start=$SECONDS
  shift 4
  while [[ $1 != -- ]]; do
    inputs+=("$1")
    shift
  done
  shift
  want=$({ printf '%s\n' "$chain" "$@" && cat /dev/null "${inputs[@]}"; } | sha256_of)
  chain=$want
  stage_number=$((stage_number + 1))
  printf '\n[%d/%d] %s\n' "$stage_number" "$stages" "$title"
  if [[ -f $stamps/$name && $(<"$stamps/$name") == "$want" && -e $output ]]; then
    echo "      done before"
    return
  fi
  rm -f "$stamps/$name"
  if [[ $unfinished == replace || ! -f $stamps/$name.begun || $(<"$stamps/$name.begun") != "$want" ]]; then
    rm -rf "$output"
    echo "$want" >"$stamps/$name.begun"
  fi
  "$@" || status=$?
  if ((status == 75)); then
    echo "Stopped, and saved. Run scripts/quickstart.sh again to continue."
    exit 75
  elif ((status != 0)); then
    die "this stage failed (exit $status): $*"
  fi
  echo "$want" >"$stamps/$name"
  printf '      %s in %s\n' "$output" "$(seconds_as_minutes $((SECONDS - start)))"
}

# The program, asked to stop (and to save what it is at) when this script dies.
run() {
  if command -v setpriv >/dev/null; then
    setpriv --pdeathsig TERM "$fbi" "$@"
  else
    "$fbi" "$@"
  fi
}

# into FILE COMMAND...: keeps what a command prints; one that fails leaves no FILE.
into() {
  local file=$1
  shift
  "$@" >"$file.partial" && mv "$file.partial" "$file"
}

train() { run train --config "$1" --run-dir "$2" --resume auto; }

export_student() { run export --checkpoint "$out/student" --format "$1" --out "$2"; }

# By the runtime that reads sign bits and knows nothing of LibTorch.
tell_story() {
  into "$out/story.txt" "$fbi_run" generate --model "$out/student-1bit" --prompt "$prompt" --max-new-tokens 250 \
    --temperature 0.3 --seed 1 && fold -s -w 96 "$out/story.txt"
}

stage corpus "$out/stories.txt" replace 'Corpus: stories from our own generator' \
  scripts/make_stories.py scripts/story_plots.txt -- \
  python3 scripts/make_stories.py --out "$out/stories.txt"
stage tokenizer "$out/tokenizer.model" replace 'Tokenizer: SentencePiece BPE with 768 pieces' -- \
  run tokenizer train --input "$out/stories.txt" --vocab-size 768 --out "$out/tokenizer.model"
stage prepare "$out/data" replace 'Data: stories into token shards, every 50th kept for the test' -- \
  run prepare --input "$out/stories.txt" --tokenizer "$out/tokenizer.model" --seq-len 256 \
  --valid-fraction 0.02 --out "$out/data"
stage teacher "$out/teacher" keep 'Teacher: a full-precision LLaMA, trained from random weights' \
  configs/quickstart_teacher.json -- train configs/quickstart_teacher.json "$out/teacher"
stage student "$out/student" keep 'Student: the same model with 1-bit decoder weights, learning from the teacher' \
  configs/quickstart_student.json -- train configs/quickstart_student.json "$out/student"
stage teacher-eval "$out/teacher-eval.json" replace 'Perplexity of the teacher on stories it has not seen' -- \
  into "$out/teacher-eval.json" run eval perplexity --model "$out/teacher" --tokens "$out/data/valid-00000.tokens" --json
stage student-eval "$out/student-eval.json" replace 'Perplexity of the student on the same stories' -- \
  into "$out/student-eval.json" run eval perplexity --model "$out/student" --tokens "$out/data/valid-00000.tokens" --json
stage export "$out/student-hf" replace 'Export: the student as a stock Hugging Face LLaMA' -- export_student hf "$out/student-hf"
stage pack "$out/student-1bit" replace 'Export: the same with its sign bits packed, for fbi-run' -- \
  export_student packed "$out/student-1bit"
stage story "$out/story.txt" replace 'A story, told from the bits by fbi-run' -- tell_story

"$fbi" plot "$out/teacher" "$out/student" --title scripts/quickstart.sh --out "$out/loss.svg"

json_number() { # FILE KEY DIGITS
  python3 -c 'import json, sys; print(f"{json.load(open(sys.argv[1]))[sys.argv[2]]:.{int(sys.argv[3])}f}")' "$@"
}
size_of() { du -sh --apparent-size "$1" | cut -f1; }
row() { printf '%-28s %-26s %s\n' "$@"; }
echo
row 'what' 'where' 'result'
row 'corpus' "$out/stories.txt" "$(grep -c . "$out/stories.txt") stories, $(size_of "$out/stories.txt")"
row 'tokenizer' "$out/tokenizer.model" '768 pieces'
row 'teacher, full precision' "$out/teacher" "perplexity $(json_number "$out/teacher-eval.json" perplexity 3)"
row 'student, 1-bit decoder' "$out/student" "perplexity $(json_number "$out/student-eval.json" perplexity 3)"
row 'exported student' "$out/student-hf" "$(size_of "$out/student-hf"), loads with transformers"
row 'its sign bits, packed' "$out/student-1bit" "$(size_of "$out/student-1bit/model.safetensors"); dense in fp16: $(size_of "$out/student-hf/model.safetensors")"
row 'its story' "$out/story.txt" "begins with \"$prompt\""
row 'loss curves' "$out/loss.svg" 'open it in a browser'
cat <<EOF

What to try next:
  $fbi_run generate --model $out/student-1bit --prompt 'This is the story of Mia and a blue drum.' --temperature 0.3
  $fbi train --config configs/quickstart_student.json --set train.init_from= --run-dir runs/from-random-weights
  $fbi inspect $out/student
  $fbi_run serve --model $out/student-1bit
  $fbi config --explain objective       what the settings mean
  docs/reproduce.md                     how the published models are trained
EOF
