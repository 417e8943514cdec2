#!/usr/bin/env bash
# Runs lm-evaluation-harness on an exported model: the zero-shot tasks of the published tables, with their settings (fp16, no BOS).
# Needs access to the data sets (the Hugging Face hub, or its cache); `fbi-llm eval choice` gives the same scores from local files.
#
#   scripts/eval_harness.sh DIR [options] [-- OPTIONS OF lm_eval]
#   scripts/eval_harness.sh --server URL --tokenizer DIR [options] [-- OPTIONS OF lm_eval]
#   scripts/eval_harness.sh --install
#
#   DIR              a folder that `fbi-llm export --format hf` made
#   --server URL     a running `fbi-run serve`, e.g. http://127.0.0.1:8080, instead: for packed models. Its key, where it asks for
#                    one, is taken from the environment: OPENAI_API_KEY
#   --tokenizer DIR  the packed export that it serves, for its tokenizer
#   --tasks LIST     default: boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa
#   --device NAME    cpu, cuda, cuda:1, ... (default: cuda:0 where there is a GPU, else cpu)
#   --output FILE    write the results as JSON, once all are there
#   --install        only install the harness into .deps/harness (0.5 GB, pinned in third_party/requirements-harness.txt)
#   -- ...           goes to lm_eval as it stands, e.g. -- --limit 100 --num_fewshot 5 --include_path my/tasks
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

model='' server='' tokenizer='' tasks=boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa device='' output=''
install_only=false extra=()
while (($#)); do
  case $1 in
    --server) server=${2:?} && shift ;;
    --tokenizer) tokenizer=${2:?} && shift ;;
    --tasks) tasks=${2:?} && shift ;;
    --device) device=${2:?} && shift ;;
    --output) output=${2:?} && shift ;;
    --install) install_only=true ;;
    -h | --help) show_help && exit ;;
    --) shift && extra=("$@") && break ;;
    -*) usage_error "unknown option $1" ;;
    *) model=$1 ;;
  esac
  shift
done

# Whether the model's config.json has this key, with this value (a regular expression).
has_key() { grep -Eq "\"$1\" *: *$2" "$model/config.json"; }

if ! $install_only; then
  if [[ -n $server ]]; then
    [[ -z $model ]] || usage_error "give the folder of an export or --server, not both"
    [[ -z $device ]] || usage_error "--device: the server has chosen its own"
    [[ -n $tokenizer ]] || usage_error "--server needs --tokenizer: the packed export that it serves"
    [[ -f $tokenizer/tokenizer_config.json ]] || die "$tokenizer holds no tokenizer_config.json; give the folder of a packed export"
  else
    [[ -n $model ]] || usage_error 'which model? give the folder of an export, or --server'
    [[ -z $tokenizer ]] || usage_error "--tokenizer is for --server; an export brings its own"
    [[ -f $model/config.json ]] || die "$model holds no config.json; make it with: fbi-llm export --format hf"
    if has_key binarize '"' || ! has_key model_type '"llama"'; then
      die "$model is no LLaMA of transformers (a packed or native export, or a run); export it with: fbi-llm export --format hf"
    fi
  fi
fi

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

if [[ -n $server ]]; then
  length=$(sed -nE 's/.*"max_position_embeddings" *: *([0-9]+).*/\1/p' "$tokenizer/config.json" 2>/dev/null || true)
  name=$(basename "$tokenizer")
  server=${server%/} server=${server%/v1}
  options=(--model local-completions --model_args
    "model=$name,base_url=$server/v1/completions,tokenizer=$tokenizer,tokenizer_backend=huggingface,timeout=3600${length:+,max_length=$length}")
else
  if [[ -z $device ]]; then
    device=$("$python" -c 'import torch; print("cuda:0" if torch.cuda.is_available() else "cpu")')
  fi
  options=(--model hf --model_args "pretrained=$model,dtype=float16,add_bos_token=False" --device "$device")
fi
export PYTHONPATH=$harness
command=("$python" -m lm_eval "${options[@]}" --tasks "$tasks" --num_fewshot 0 --batch_size 8)
[[ -n $output ]] || exec "${command[@]}" "${extra[@]}"

# lm_eval puts the date into the name of its file, and ends without an error where it cannot write it.
folder=$(dirname "$output")
[[ ! -d $output ]] || usage_error "--output: $output is a folder, give a file"
mkdir -p "$folder"
results=$(mktemp -d "$folder/.harness-XXXXXX")
trap 'rm -rf "$results"' EXIT
"${command[@]}" --output_path "$results/results.json" "${extra[@]}"
found=("$results"/results_*.json)
[[ -f ${found[0]} ]] || die "lm_eval wrote no results; is there room in $folder?"
mv "${found[0]}" "$output"
# Of -- --log_samples.
for samples in "$results"/samples_*.jsonl; do
  [[ ! -f $samples ]] || mv "$samples" "$folder"
done
