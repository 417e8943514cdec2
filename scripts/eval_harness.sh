#!/usr/bin/env bash
# Runs lm-evaluation-harness on an exported model: the zero-shot tasks of the published tables, with their settings (fp16, no BOS).
# Needs access to the data sets (the Hugging Face hub, or its cache); `fbi-llm eval choice` gives the same scores from local files.
#
#   scripts/eval_harness.sh DIR [--tasks LIST] [--device NAME] [--output FILE]
#   scripts/eval_harness.sh --install
#
#   DIR            a folder that `fbi-llm export --format hf` made
#   --tasks LIST   default: boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa
#   --device NAME  cpu, cuda, cuda:1, ... (cuda:0)
#   --output FILE  write the results as JSON
#   --install      only install the harness into .deps/harness (0.5 GB, pinned in third_party/requirements-harness.txt)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

model='' tasks=boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa device=cuda:0 output='' install_only=false
while (($#)); do
  case $1 in
    --tasks) tasks=${2:?} && shift ;;
    --device) device=${2:?} && shift ;;
    --output) output=${2:?} && shift ;;
    --install) install_only=true ;;
    -h | --help) show_help && exit ;;
    -*) usage_error "unknown option $1" ;;
    *) model=$1 ;;
  esac
  shift
done
$install_only || [[ -n $model ]] || usage_error 'which model? give the folder of an export'
$install_only || [[ -f $model/config.json ]] || die "$model holds no config.json; make it with: fbi-llm export --format hf"

python=$deps_dir/python-tests/bin/python
harness=$deps_dir/harness
requirements=$repo/third_party/requirements-harness.txt
if ! cmp -s "$requirements" "$harness/requirements.txt"; then
  "$repo/scripts/deps.sh" --python-tests
  echo "installing lm-evaluation-harness into $harness (0.5 GB)"
  rm -rf "$harness"
  quietly "$python" -m pip install --no-deps --no-compile --target "$harness" --requirement "$requirements"
  cp "$requirements" "$harness/requirements.txt"
fi
$install_only && exit

PYTHONPATH=$harness exec "$python" -m lm_eval --model hf \
  --model_args "pretrained=$model,dtype=float16,add_bos_token=False" \
  --tasks "$tasks" --num_fewshot 0 --batch_size 8 --device "$device" ${output:+--output_path "$output"}
