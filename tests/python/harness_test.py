"""fbi-llm eval choice against lm-evaluation-harness: item by item, on local tasks.

Usage: harness_test.py PATH-OF-FBI-LLM [unittest arguments].  Uses the interpreter of transformers_test.py and the packages in
$FBI_HARNESS or .deps/harness, which scripts/eval_harness.sh --install makes; without them it exits with 77: skipped."""
import json
import os
import pathlib
import random
import shutil
import sys
import unittest
import warnings

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HARNESS = pathlib.Path(os.environ.get("FBI_HARNESS") or REPOSITORY / ".deps/harness")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

if __name__ == "__main__":
    if not (HARNESS / "lm_eval").exists():
        print(f"skipped: there is no lm_eval in {HARNESS}; scripts/eval_harness.sh --install puts it there (0.5 GB)")
        sys.exit(77)
    import interpreter

    interpreter.use_interpreter_with_transformers()
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1")

sys.path.insert(1, str(HARNESS))
warnings.simplefilter("ignore")

import torch  # noqa: E402
import transformers_test  # noqa: E402
import yaml  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.evaluator import evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.utils import load_yaml_config  # noqa: E402

# Both add the log-likelihoods of some tokens in fp32.
TOLERANCE = 1e-3
WORDS = "the a fox dog Ann Bea saw ran 12 it's down, hill. Über naïve and then? (maybe) 東京 blue".split()


def phrase(dice, least=1, most=8):
    return " ".join(dice.choice(WORDS) for _ in range(dice.randrange(least, most + 1)))


def items(count, make):
    return [make(random.Random(seed)) for seed in range(count)]


def plain(dice):
    context = dice.choice([phrase(dice), phrase(dice) + " ", phrase(dice) + "\n\u00a0", phrase(dice, 80, 90), ""])
    choices = [phrase(dice) for _ in range(dice.randrange(2, 6))]
    return {"context": context, "choices": choices, "gold": dice.randrange(len(choices))}


def labelled(dice, **fields):
    texts = [phrase(dice, 1, 4) for _ in range(4)]
    return {**fields, "choices": {"text": texts, "label": list("ABCD")}, "answerKey": dice.choice("ABCD")}


def hellaswag(dice):
    return {"ind": 1, "activity_label": phrase(dice, 1, 2), "ctx_a": phrase(dice) + dice.choice(["", " [title] B", " [step] c"]),
            "ctx_b": dice.choice(["he THEN", "éCOLE", "a"]), "endings": [phrase(dice) + dice.choice(["", " [x] y", "  z"]) for _ in range(4)],
            "label": str(dice.randrange(4))}


TASKS = {
    "piqa": lambda dice: {"goal": phrase(dice), "sol1": phrase(dice), "sol2": phrase(dice), "label": dice.randrange(2)},
    "boolq": lambda dice: {"passage": phrase(dice, 5, 9), "question": phrase(dice), "idx": 0, "label": dice.randrange(2)},
    "hellaswag": hellaswag,
    "winogrande": lambda dice: {"sentence": f"{phrase(dice)} _ {phrase(dice)}.", "option1": "Ann", "option2": "the dog",
                                "answer": dice.choice("12")},
    "arc_easy": lambda dice: labelled(dice, id="1", question=phrase(dice)),
    "arc_challenge": lambda dice: labelled(dice, id="1", question=phrase(dice)),
    "openbookqa": lambda dice: labelled(dice, id="1", question_stem=phrase(dice)),
}
FILES = {"boolq": "super_glue/boolq/default.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "piqa": "piqa/piqa.yaml",
         "winogrande": "winogrande/default.yaml", "arc_easy": "arc/arc_easy.yaml", "arc_challenge": "arc/arc_challenge.yaml",
         "openbookqa": "openbookqa/openbookqa.yaml"}


class Choices(transformers_test.InFolder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.folder / "tasks").mkdir()
        cls.write_task("plain", items(24, plain), {
            "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
            "test_split": "test", "metric_list": [{"metric": name} for name in ("acc", "acc_norm")]})
        for name, make in TASKS.items():
            cls.write_task(name, items(8, make), {"include": str(HARNESS / "lm_eval/tasks" / FILES[name]), "dataset_name": None})
        torch.manual_seed(5)
        model = transformers_test.random_llama(vocab_size=423, initializer_range=0.2, bos_token_id=420, eos_token_id=421)
        model.save_pretrained(cls.folder / "byte-level")
        sample = REPOSITORY / "tests/text/byte_bpe/llama3"
        shutil.copy(sample / "tokenizer.json", cls.folder / "byte-level")
        config = json.loads((sample / "tokenizer_config.json").read_text())
        config = {**config, "eos_token": config["eos_token"]["content"], "tokenizer_class": "PreTrainedTokenizerFast"}
        (cls.folder / "byte-level" / "tokenizer_config.json").write_text(json.dumps(config))
        cls.make_sentencepiece_model()

    @classmethod
    def make_sentencepiece_model(cls):
        dice = random.Random(1)
        (cls.folder / "text.txt").write_text("".join(phrase(dice, 5, 20) + "\n" for _ in range(500)))
        cls.run_program("tokenizer", "train", "--input", "text.txt", "--vocab-size", 330, "--out", "tokenizer.model")
        transformers_test.random_llama(vocab_size=330, initializer_range=0.2).save_pretrained(cls.folder / "raw")
        cls.run_program("export", "--checkpoint", "raw", "--tokenizer", "tokenizer.model", "--dtype", "fp32", "--out", "sentencepiece")

    @classmethod
    def write_task(cls, name, lines, config):
        data = cls.folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = {**config, "task": f"local_{name}", "dataset_path": "json",
                  "dataset_kwargs": {"data_files": {split: str(data) for split in ("train", "validation", "test")}}}
        (cls.folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(config))

    def ours(self, model, *words):
        tasks = [word for name in ("plain", *TASKS) for word in ("--tasks", "plain.jsonl" if name == "plain" else f"{name}={name}.jsonl")]
        scores = json.loads(self.run_program("eval", "choice", "--model", model, *tasks, "--samples", "samples.jsonl", "--json", *words))
        samples = {}
        for line in (self.folder / "samples.jsonl").read_text().splitlines():
            sample = json.loads(line)
            samples.setdefault(sample["task"], []).append(sample)
        return scores["results"], samples

    def theirs(self, model, add_bos):
        tasks = {}
        for name in ("plain", *TASKS):
            config = load_yaml_config(str(self.folder / "tasks" / f"{name}.yaml"))
            tasks[f"local_{name}"] = ConfigurableTask(config={**config, "num_fewshot": 0})
        harness_model = HFLM(pretrained=str(self.folder / model), dtype="float32", add_bos_token=add_bos, max_length=64, batch_size=4,
                             device="cpu")
        return evaluate(lm=harness_model, task_dict=tasks, bootstrap_iters=0, log_samples=True)

    def check(self, model, add_bos):
        results, samples = self.ours(model, *(["--add-bos"] if add_bos else []))
        theirs = self.theirs(model, add_bos)
        for name in ("plain", *TASKS):
            found = sorted(theirs["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
            self.assertEqual(len(found), len(samples[name]))
            for their, our in zip(found, samples[name]):
                likelihoods = [response[0] for response in their["filtered_resps"]]
                self.assertEqual(len(likelihoods), len(our["filtered_resps"]))
                for a, b in zip(likelihoods, our["filtered_resps"]):
                    self.assertLessEqual(abs(a - b), TOLERANCE, f"{name}, item {our['doc_id']}: {their['arguments']}")
                self.assertEqual(their["acc"], our["acc"])
                self.assertEqual(their.get("acc_norm"), our.get("acc_norm"))
            for metric, value in results[name].items():
                if metric.startswith("acc") and "stderr" not in metric:
                    self.assertAlmostEqual(value, theirs["results"][f"local_{name}"][metric])
        return samples

    def test_with_and_without_bos(self):
        for model in ("byte-level", "sentencepiece"):
            with self.subTest(model):
                without, with_bos = self.check(model, False), self.check(model, True)
                changed = [abs(a - b) for one, other in zip(without["piqa"], with_bos["piqa"])
                           for a, b in zip(one["filtered_resps"], other["filtered_resps"])]
                self.assertGreater(max(changed), 0.01)  # the switch changes what it should


if __name__ == "__main__":
    transformers_test.PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    torch.set_num_threads(1)
    unittest.main()
