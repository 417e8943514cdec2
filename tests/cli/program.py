"""What the tests of the whole program share: a small job in a folder of its own, and ways to start the program there."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))
import small_job  # noqa: E402

SEQ_LEN, VOCAB = 16, 320
PROGRAM = None  # set by main()
WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-program-test-"))  # with what setUpModule makes: stories.txt, tokenizer.model, data, teacher, student, hf

CONFIG = {
    "model": {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "binarize": "none"},
    "objective": {"next_token": 1.0, "distill": 0.0},
    "optimizer": {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2, "total_steps": 20},
    "train": {"seq_len": SEQ_LEN, "global_batch": 8, "micro_batch": 4, "steps": 20, "threads": 1, "device": "cpu"},
    "checkpoint": {"every_steps": 5, "keep": 2},
    "log": {"every_steps": 5},
}


def command(*words):
    return [PROGRAM, *map(str, words)]


def run(*words, code=0, **options):
    """Runs fbi-llm, expects the exit code, returns what it printed: stdout, or everything when it was to fail."""
    done = subprocess.run(command(*words), cwd=WORK, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != code:
        raise AssertionError(f"fbi-llm {' '.join(map(str, words))}\nexit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout if code == 0 else done.stdout + done.stderr


def sets(changes):
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")]


def train_words(run_dir, *words, changes=None):
    return ("train", "--config", "config.json", "--run-dir", run_dir, *sets(changes or {}), *words)


def train(run_dir, *words, code=0, changes=None, **options):
    return run(*train_words(run_dir, *words, changes=changes), code=code, **options)


def resume(run_dir, changes):
    """Continues a run, which succeeds; returns what it said."""
    done = subprocess.run(command(*train_words(run_dir, "--resume", "auto", changes=changes)), cwd=WORK, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stderr


DISTILL = {"model.binarize": "column", "teacher.path": "teacher", "objective": {"next_token": 0, "distill": 1}}


def inspect(path):
    return json.loads(run("inspect", "--json", path))


def metrics(run_dir):
    return [json.loads(line) for line in (WORK / run_dir / "metrics.jsonl").read_text().splitlines()]


def what_was_computed(run_dir):
    return small_job.what_was_computed(WORK / run_dir)


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copy(source, target):
    shutil.copytree(WORK / source, WORK / target)
    return WORK / target


def write_lines(name, samples):
    lines = [line if isinstance(line, str) else json.dumps({"token_ids": line}) for line in samples]
    (WORK / name).write_text("\n".join(lines) + "\n")


def setUpModule():
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "make_stories.py", "--out", WORK / "stories.txt", "--bytes", "60000"],
                   check=True, capture_output=True)
    (WORK / "config.json").write_text(json.dumps({**CONFIG, "data": {"paths": ["data"]}}))
    run("tokenizer", "train", "--input", "stories.txt", "--vocab-size", VOCAB, "--out", "tokenizer.model")
    run("prepare", "--input", "stories.txt", "--tokenizer", "tokenizer.model", "--seq-len", SEQ_LEN, "--valid-fraction", 0.05,
        "--out", "data")
    train("teacher")
    train("student", changes=DISTILL)
    run("export", "--checkpoint", "student", "--format", "hf", "--out", "hf")


def tearDownModule():
    shutil.rmtree(WORK)


def main():
    """Runs the tests of the file that was started as FILE PATH-OF-FBI-LLM [unittest arguments]."""
    global PROGRAM
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
