"""fbi-llm as its users meet it: the main job from a text to an exported model, what happens when it is interrupted, and
what it says about bad input.  Usage: program_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import array
import json
import pathlib
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.dom.minidom

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))
import small_job  # noqa: E402
SEQ_LEN, VOCAB = 16, 320
STEPS = 120  # of runs that are interrupted: long enough to be caught in the middle
PROGRAM = None
WORK = None  # folder with what setUpModule makes: stories.txt, tokenizer.model, data, teacher, student, hf

CONFIG = {
    "model": {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "binarize": "none"},
    "objective": {"next_token": 1.0, "distill": 0.0},
    "optimizer": {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2, "total_steps": 20},
    "train": {"seq_len": SEQ_LEN, "global_batch": 8, "micro_batch": 4, "steps": 20, "threads": 1, "device": "cpu"},
    "checkpoint": {"every_steps": 5, "keep": 2},
    "log": {"every_steps": 5},
}


def run(*words, code=0, **options):
    """Runs fbi-llm, expects the exit code, returns what it printed: stdout, or everything when it was to fail."""
    done = subprocess.run([PROGRAM, *map(str, words)], cwd=WORK, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != code:
        raise AssertionError(f"fbi-llm {' '.join(map(str, words))}\nexit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout if code == 0 else done.stdout + done.stderr


def sets(changes):
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")]


def train(run_dir, *words, code=0, changes=None, **options):
    return run("train", "--config", "config.json", "--run-dir", run_dir, *sets(changes or {}), *words, code=code, **options)


DISTILL = {"model.binarize": "column", "teacher.path": "teacher", "objective": {"next_token": 0, "distill": 1}}


def inspect(path):
    return json.loads(run("inspect", "--json", path))


def metrics(run_dir):
    return [json.loads(line) for line in (WORK / run_dir / "metrics.jsonl").read_text().splitlines()]


def what_was_computed(run_dir):
    """The metrics without the clock."""
    return [{key: value for key, value in line.items() if key not in small_job.OF_THE_MACHINE} for line in metrics(run_dir)]


def read_logits(path):
    data = (WORK / path).read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    values = array.array("f", data[8 + length:])
    return header["logits"]["shape"], header["logits"]["dtype"], values


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copy(source, target):
    shutil.copytree(WORK / source, WORK / target)
    return WORK / target


def write_lines(name, samples):
    lines = [line if isinstance(line, str) else json.dumps({"token_ids": line}) for line in samples]
    (WORK / name).write_text("\n".join(lines) + "\n")


def write_teacher(folder, vocab):
    """A Hugging Face folder as small as one can be, for checks that read no more than its headers."""
    hidden, inner = 8, 8
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": hidden,
              "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float16",
              "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    layer = "model.layers.0."
    for name in ("q", "k", "v", "o"):
        shapes[f"{layer}self_attn.{name}_proj.weight"] = [hidden, hidden]
    for name in ("gate", "up", "down"):
        shapes[f"{layer}mlp.{name}_proj.weight"] = [hidden, inner]
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{layer}{name}.weight"] = [hidden]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def setUpModule():
    global WORK
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-program-test-"))
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


class MainJob(unittest.TestCase):
    def test_training_learns_and_writes_every_promised_metric(self):
        for name in ("teacher", "student"):
            lines = metrics(name)
            self.assertEqual([line["step"] for line in lines], list(range(1, 21)))
            self.assertLess(lines[-1]["loss"], lines[0]["loss"] - 0.5)
        last = metrics("student")[-1]
        promised = ("step tokens loss loss_next_token loss_distill grad_norm lr flip_rate flips skipped sample_first "
                    "sample_count").split()
        self.assertEqual([key for key in promised if key not in last], [])
        self.assertEqual((last["tokens"], last["sample_first"], last["sample_count"]), (20 * 8 * SEQ_LEN, 152, 8))
        self.assertEqual(last["loss"], last["loss_distill"])
        self.assertTrue(any(line["flips"] > 0 for line in metrics("student")))

    def test_perplexity_of_run_checkpoint_export_and_teacher(self):
        def measure(model, *words):
            return json.loads(run("eval", "perplexity", "--model", model, "--tokens", "data/valid-00000.tokens", "--json", *words))
        of_run = measure("student")
        self.assertLessEqual({"perplexity", "mean_nll", "windows", "tokens", "dtype"}, set(of_run))
        self.assertEqual(measure("student/checkpoints/step-00000020"), of_run)
        folded = measure("student", "--dtype", "fp16")
        self.assertIn("fp16", folded["dtype"])
        self.assertAlmostEqual(measure("hf")["mean_nll"], folded["mean_nll"], places=5)
        self.assertTrue(1 < measure("teacher")["perplexity"] < VOCAB / 2)
        shared = run("launch", "--nproc", 2, "--", "eval", "perplexity", "--model", "student", "--tokens",
                     "data/valid-00000.tokens", "--threads", 1, "--json")
        self.assertEqual(json.loads(shared), measure("student", "--threads", 1))

    def test_choices_are_shared_by_ranks(self):
        lines = [{"context": "Once upon a time", "choices": ["there was a fox", "a cat", "dog"], "gold": n % 3} for n in range(5)]
        (WORK / "pets.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = ("eval", "choice", "--model", "student", "--tasks", "pets.jsonl", "--threads", 1, "--json")
        one = json.loads(run(*words))
        self.assertAlmostEqual(one["results"]["pets"]["acc,none"], 0.4, delta=0.2)  # one answer to all: 1 or 2 of 5
        self.assertEqual(json.loads(run("launch", "--nproc", 2, "--", *words)), one)
        self.assertRegex(run("eval", "perplexity", "--model", "hf", "--text", "stories.txt", "--seq-len", 32, "--max-tokens", 640),
                         r"^perplexity \d")

    def test_exports_hold_the_same_model(self):
        write_lines("windows.jsonl", [[1, *range(40, 52)], [1, *range(200, 212)]])
        run("export", "--checkpoint", "student", "--format", "native", "--out", "native")
        run("export", "--checkpoint", "teacher", "--format", "hf", "--out", "teacher-hf")
        for source, dtype, exported in (("student", "fp16", "hf"), ("student", "fp32", "native"), ("teacher", "fp32", "teacher-hf")):
            run("eval", "logits", "--model", source, "--dtype", dtype, "--tokens", "windows.jsonl", "--out", "a.safetensors")
            run("eval", "logits", "--model", exported, "--tokens", "windows.jsonl", "--out", "b.safetensors")
            (shape, kind, ours), (_, _, theirs) = read_logits("a.safetensors"), read_logits("b.safetensors")
            self.assertEqual((shape, kind), ([2, 13, VOCAB], "F32"))
            # Both multiply the same rounded values in fp32; sums may come in another order.
            self.assertLessEqual(max(abs(a - b) for a, b in zip(ours, theirs)), 1e-5, exported)
        config = json.loads((WORK / "hf" / "config.json").read_text())
        self.assertEqual(config["architectures"], ["LlamaForCausalLM"])
        dtypes = {tensor["dtype"] for tensor in inspect("hf")}
        self.assertEqual(dtypes, {"F16"})
        self.assertIn("model.layers.0.self_attn.q_proj.wscale", [tensor["name"] for tensor in inspect("native")])

    def test_generation_is_a_function_of_the_seed(self):
        def text(seed, *words):
            return run("generate", "--model", "hf", "--prompt", "One day", "--max-new-tokens", 24, "--seed", seed, *words)
        first = text(3)
        self.assertTrue(first.startswith("One day"))
        self.assertEqual(text(3), first)
        self.assertNotEqual(text(4), first)
        self.assertEqual(text(3, "--temperature", "0"), text(4, "--temperature", "0"))
        self.assertEqual(run("generate", "--model", "hf", "--prompt", "One day", "--max-new-tokens", 0), "One day\n")
        result = json.loads(text(3, "--json"))
        self.assertEqual(first, "One day" + result["text"] + "\n")
        self.assertEqual((len(result["ids"]), result["finish_reason"]), (24, "length"))

    def test_inspect_names_every_tensor(self):
        tensors = inspect("student")
        for tensor in tensors:
            self.assertEqual(set(tensor), {"name", "shape", "dtype", "xxh3"})
        shapes = {tensor["name"]: tensor["shape"] for tensor in tensors}
        self.assertEqual(shapes["model.layers.1.mlp.down_proj.weight"], [32, 48])
        shard = json.loads(run("inspect", "--json", "data/train-00000.tokens"))
        self.assertEqual((shard["ids_per_sample"], shard["vocab_size"]), (SEQ_LEN + 1, VOCAB))

    def test_plot_is_a_picture_of_all_runs(self):
        run("plot", "teacher", "student", "--out", "curves.svg", "--title", "<a> & b")
        picture = xml.dom.minidom.parse(str(WORK / "curves.svg"))
        self.assertEqual(picture.documentElement.tagName, "svg")
        text = (WORK / "curves.svg").read_text()
        self.assertIn("teacher", text)
        self.assertIn("student", text)
        for part in ("nan", "inf"):
            self.assertNotIn(part, text)

    def test_progress_is_short_and_train_log_has_the_details(self):
        log = (WORK / "student" / "train.log").read_text()
        lines = re.findall(r" (info step +\d+/\d+ +\d+%  loss .*)", log)
        self.assertRegex(lines[-1], r"100%  loss +[\d.]+  norm +[\d.]+  flips [\d.]+%  +[\d.]+K? tokens/s  ETA 0.0s$")
        self.assertLessEqual(max(map(len, lines)) + len("12:34:56 "), 110)
        self.assertRegex(log, r"debug step \d+: lr [\d.e-]+, .* memory .* time ")

    def test_config_prints_what_it_reads(self):
        resolved = run("config", "config.json", "--set", "optimizer.lr=0.5")
        self.assertEqual(json.loads(resolved)["optimizer"]["lr"], 0.5)
        (WORK / "resolved.json").write_text(resolved)
        self.assertEqual(run("config", "resolved.json"), resolved)
        self.assertIn("Highest learning rate", run("config", "--explain", "optimizer.lr"))

    def test_dry_run_checks_and_writes_nothing(self):
        report = train("not-there", "--dry-run", changes=DISTILL)
        for part in ("36", "samples of 17 ids", "teacher", "dry run: all checks passed"):
            self.assertIn(part, report)
        self.assertFalse((WORK / "not-there").exists())
        self.assertIn("nowhere", train("not-there", "--dry-run", code=3, changes={"data.paths": "nowhere"}))
        self.assertIn("train.init_from: nowhere is not a folder", train("not-there", "--dry-run", code=3, changes={"train.init_from": "nowhere"}))
        self.assertIn("all checks passed", train("not-there", "--dry-run", changes={"train.init_from": "teacher"}))

    def test_dry_run_plans_for_gpus_that_are_elsewhere(self):
        self.assertIn("8 samples = 4 rank(s) x 1 micro-steps x 2", train("not-there", "--dry-run", "--gpus", 4, changes={**DISTILL, "train.micro_batch": 2}))
        self.assertIn("expected a multiple of", train("not-there", "--dry-run", "--gpus", 7, code=2, changes=DISTILL))
        self.assertIn("--gpus: expected 1 to 1000000, found 0", train("not-there", "--dry-run", "--gpus", 0, code=2, changes=DISTILL))
        self.assertIn("--gpus says what --dry-run is to plan for", train("not-there", "--gpus", 4, code=2, changes=DISTILL))

    def test_help_of_every_verb(self):
        overview = run("--help")
        verbs = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", overview, re.MULTILINE)
        self.assertIn("eval logits", verbs)
        for verb in verbs:
            self.assertIn(f"Usage: fbi-llm {verb}", run(*verb.split(), "--help"))
        self.assertRegex(run("--version"), r"^fbi-llm \d+\.\d+\.\d+\n$")


class Interrupted(unittest.TestCase):
    """Whatever stops a run: continued, it ends with the bits of one that nothing stopped."""

    CHANGES = {**DISTILL, "train.steps": STEPS, "optimizer.total_steps": STEPS, "checkpoint.every_steps": 10}

    @classmethod
    def setUpClass(cls):
        train("whole", changes=cls.CHANGES)
        cls.tensors, cls.metrics = inspect("whole"), what_was_computed("whole")

    def start(self, name, steps_before=13):
        """A run in the background that has done some steps."""
        words = [PROGRAM, "train", "--config", "config.json", "--run-dir", name, *sets(self.CHANGES)]
        process = subprocess.Popen(words, cwd=WORK, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        path = WORK / name / "metrics.jsonl"
        while process.poll() is None and not (path.exists() and path.read_text().count("\n") >= steps_before):
            time.sleep(0.005)
        return process

    def finish(self, name):
        done = subprocess.run([PROGRAM, "train", "--config", "config.json", "--run-dir", name, "--resume", "auto", *sets(self.CHANGES)],
                              cwd=WORK, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(inspect(name), self.tensors)
        self.assertEqual(what_was_computed(name), self.metrics)
        return done.stderr

    def test_asked_to_stop_it_saves_and_continues(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            name = f"stopped-by-{int(number)}"
            process = self.start(name)
            process.send_signal(number)
            output = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 75, output)
            self.assertIn(f"stopped by signal {int(number)} at step", output)
            self.assertLess(len(metrics(name)), STEPS)
            self.assertIn(f"step {len(metrics(name))}", self.finish(name))

    def test_killed_it_continues_from_the_last_checkpoint(self):
        process = self.start("killed", steps_before=23)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertRegex(self.finish("killed"), r"continuing from killed/checkpoints/step-0+\d+0, step \d+0")

    def test_a_second_run_is_refused_while_the_first_lives(self):
        process = self.start("live", steps_before=1)
        process.send_signal(signal.SIGSTOP)  # alive, and sure not to end meanwhile
        try:
            output = train("live", "--resume", "auto", code=2, changes=self.CHANGES)
        finally:
            process.send_signal(signal.SIGCONT)
        self.assertIn(f"in use by process {process.pid} ", output)
        process.terminate()
        self.assertEqual(process.wait(timeout=60), 75)

    def test_full_disk_training_goes_on(self):
        train("full", changes={**self.CHANGES, "train.steps": 10})
        before = files_below(WORK / "full" / "checkpoints")

        def small_files():  # a checkpoint of this model has 450 kB, the metrics of all steps 200 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        output = train("full", "--resume", "auto", code=7, changes=self.CHANGES, preexec_fn=small_files)
        self.assertIn("checkpoint of step 20 not saved, training goes on", output)
        self.assertIn("checkpoint of step 110 not saved, training goes on", output)
        self.assertEqual(len(metrics("full")), STEPS)
        self.assertEqual(files_below(WORK / "full" / "checkpoints"), before)
        self.assertIn("step-00000010, step 10", self.finish("full"))


class BrokenCheckpoint(unittest.TestCase):
    def check_falls_back(self, name, damage, *parts):
        folder = copy("student", name) / "checkpoints" / "step-00000020"
        damage(folder)
        done = subprocess.run([PROGRAM, "train", "--config", "config.json", "--run-dir", name, "--resume", "auto", *sets(DISTILL)],
                              cwd=WORK, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        for part in ("step-00000020", "continuing from " + name + "/checkpoints/step-00000015, step 15", *parts):
            self.assertIn(part, done.stderr)
        self.assertEqual(inspect(name), inspect("student"))

    def test_altered(self):
        def damage(folder):
            shard = next(folder.glob("*.safetensors"))
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(data)
        self.check_falls_back("altered", damage, ".safetensors")

    def test_truncated(self):
        def damage(folder):
            shard = next(folder.glob("*.safetensors"))
            shard.write_bytes(shard.read_bytes()[:-100])
        self.check_falls_back("truncated", damage, ".safetensors")

    def test_manifest_altered(self):
        def damage(folder):
            manifest = folder / "manifest.json"
            manifest.write_text(manifest.read_text().replace('"step"', '"stop"', 1))
        self.check_falls_back("manifest", damage, "manifest.json")

    def test_none_left(self):
        folder = copy("student", "none-left")
        for manifest in folder.glob("checkpoints/*/manifest.json"):
            manifest.write_text("{}")
        before = files_below(folder / "checkpoints")
        self.assertIn("none-left/checkpoints", train("none-left", "--resume", "auto", code=4, changes=DISTILL))
        self.assertEqual(files_below(folder / "checkpoints"), before)


class BadInput(unittest.TestCase):
    def refused(self, code, parts, changes=None, words=()):
        output = train("refused", *words, code=code, changes=changes)
        for part in parts:
            self.assertIn(part, output)
        # A start that failed leaves a folder in which the corrected command works as it stands.
        self.assertEqual([path.name for path in (WORK / "refused").glob("*") if path.name != ".lock"], [])
        return output

    def test_unknown_keys_all_at_once(self):
        self.refused(2, ["2 problems", "optimizer.lrr", "did you mean optimizer.lr?", "train.step ", "did you mean train.steps?"],
                     {"optimizer.lrr": 1, "train.step": 3})

    def test_wrong_type_and_range(self):
        self.refused(2, ['train.steps = "many": expected an integer', "optimizer.beta1 = 1.5: expected a number >= 0 and < 1"],
                     {"train.steps": "many", "optimizer.beta1": 1.5})

    def test_batch_that_does_not_divide(self):
        self.refused(2, ["train.global_batch = 8", "multiple of 3"], {"train.micro_batch": 3})

    def test_configuration_missing_or_no_json(self):
        self.assertIn("nowhere.json", run("train", "--config", "nowhere.json", "--run-dir", "refused", code=2))
        (WORK / "no.json").write_text('{"train": {"steps": 3,}')
        self.assertIn("no.json", run("train", "--config", "no.json", "--run-dir", "refused", code=2))

    def test_data_missing_or_unreadable(self):
        self.refused(3, ["data.paths: nowhere: no such file or folder"], {"data.paths": "nowhere"})
        (WORK / "folder.tokens").mkdir()
        self.refused(3, ["folder.tokens"], {"data.paths": "folder.tokens"})

    def test_shard_truncated(self):
        (WORK / "cut.tokens").write_bytes((WORK / "data/train-00000.tokens").read_bytes()[:1000])
        self.refused(3, ["cut.tokens: expected", "872 bytes"], {"data.paths": "cut.tokens"})
        (WORK / "header.tokens").write_bytes(b"FBITOKEN")
        self.refused(3, ["header.tokens"], {"data.paths": "header.tokens"})

    def test_shard_altered(self):
        data = bytearray((WORK / "data/train-00000.tokens").read_bytes())
        data[-5] ^= 1
        (WORK / "altered.tokens").write_bytes(data)
        output = train("altered-data", code=3, changes={"data.paths": "altered.tokens"})
        self.assertIn("altered.tokens: the samples have been altered: expected XXH3", output)

    def test_shard_of_other_length(self):
        self.refused(3, ["data/train-00000.tokens", "17"], {"train.seq_len": 8})

    def test_line_broken(self):
        good = [1] + [5] * SEQ_LEN
        for name, line, parts in (("json", '{"token_ids": [1, 2', ["broken JSON"]),
                                  ("count", [1, 2, 3], ["expected 17 ids", "found 3"]),
                                  ("id", [1] * SEQ_LEN + [VOCAB], ["expected 0 to 319", "found 320"]),
                                  ("negative", [1] * SEQ_LEN + [-1], ["-1"])):
            with self.subTest(name):
                write_lines(f"bad-{name}.jsonl", [good] * 6 + [line] + [good] * 33)
                output = train(f"bad-{name}", code=3, changes={"data.format": "amber", "data.paths": f"bad-{name}.jsonl"})
                for part in (f"bad-{name}.jsonl, line 7", *parts):
                    self.assertIn(part, output)

    def test_teacher_that_does_not_fit(self):
        self.refused(2, ["teacher.path teacher: its vocabulary has 320", "400"], {**DISTILL, "model.vocab_size": 400})
        run("prepare", "stories.txt", "--tokenizer", "tokenizer.model", "--seq-len", 96, "--out", "data-96")
        self.refused(2, ["train.seq_len 96 exceeds its max_position_embeddings 64"],
                     {**DISTILL, "train.seq_len": 96, "model.max_position_embeddings": 128, "data.paths": "data-96"})
        self.refused(3, ["nowhere"], {**DISTILL, "teacher.path": "nowhere"})

    def test_teacher_with_keys_that_are_not_implemented(self):
        config = copy("hf", "biased") / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "attention_bias": True, "hidden_act": "gelu"}))
        self.refused(3, ["biased/config.json: 2 problems", "attention_bias = true: not implemented", 'hidden_act = "gelu"'],
                     {**DISTILL, "teacher.path": "biased"})

    def test_safetensors_with_offsets_out_of_bounds(self):
        original = (WORK / "hf/model.safetensors").read_bytes()
        length, = struct.unpack_from("<Q", original)
        header = json.loads(original[8:8 + length])

        def damaged(name, **entry):
            copied = {**header, "model.norm.weight": {**header["model.norm.weight"], **entry}}
            text = json.dumps(copied).encode()
            return struct.pack("<Q", len(text)) + text + original[8 + length:]
        copy("hf", "offsets")
        for name, data in (("outside", damaged("outside", data_offsets=[10 ** 9, 10 ** 9 + 64])),
                           ("overflow", damaged("overflow", data_offsets=[2 ** 64 - 64, 2 ** 64])),
                           ("shape", damaged("shape", shape=[2 ** 62, 2 ** 62])),
                           ("backwards", damaged("backwards", data_offsets=[64, 0])),
                           ("header", struct.pack("<Q", 2 ** 63) + original[8:]),
                           ("truncated", original[:-2]),
                           ("empty", b"")):
            with self.subTest(name):
                (WORK / "offsets/model.safetensors").write_bytes(data)
                output = run("eval", "perplexity", "--model", "offsets", "--tokens", "data/valid-00000.tokens", code=3)
                self.assertIn("offsets/model.safetensors", output)

    def test_run_directory_in_use_or_impossible(self):
        before = files_below(WORK / "teacher")
        self.assertIn("teacher is not empty: continue it by --resume auto", train("teacher", code=2))
        self.assertEqual(files_below(WORK / "teacher"), before)
        self.assertIn("config.json/run", train("config.json/run", code=7))  # a path below a regular file
        self.assertIn("run directory hf holds no run to continue", train("hf", "--resume", "auto", code=2))

    def test_another_configuration_is_no_continuation(self):
        copy("teacher", "changed")
        output = train("changed", "--resume", "auto", code=2, changes={"optimizer.lr": 0.5, "data.seed": 9})
        for part in ("optimizer.lr", "data.seed", "--allow-change"):
            self.assertIn(part, output)

    def test_command_line(self):
        for words, parts in ((["trian"], ["unknown verb 'trian'; did you mean 'train'?"]),
                             (["eval", "perplxity"], ["unknown verb 'eval perplxity'; did you mean 'eval perplexity'?"]),
                             (["train", "--confg", "x"], ["unknown option --confg", "did you mean --config?"]),
                             (["train"], ["fbi-llm train needs:", "--config FILE", "--run-dir DIR"]),
                             (["eval"], ["fbi-llm eval perplexity", "fbi-llm eval logits"]),
                             (["generate", "--model", "hf", "--seed", "x"], ["--seed: expected an integer, found 'x'"]),
                             (["generate", "--model", "hf", "--prompt", "x", "--temperature", "-1"], ["temperature must be", "found -1"]),
                             (["generate", "--model", "hf", "--threads", "-1"], ["--threads: expected 0 (all processors) to 4096, found -1"]),
                             (["prepare", "stories.txt", "--out", "x", "--threads", "9999"], ["--threads", "found 9999"]),
                             (["eval", "perplexity", "--model", "hf"], ["--tokens FILE or --text FILE"]),
                             (["export", "--checkpoint", "hf", "--format", "gguff", "--out", "x"], ["hf, native, packed, gguf or gguf-q1_0", "gguff"])):
            with self.subTest(" ".join(words)):
                output = run(*words, code=2)
                for part in parts:
                    self.assertIn(part, output)


class Readme(unittest.TestCase):
    SMALL = {"$fbi": "fbi-llm", "corpus.txt": "stories.txt", "llama2/tokenizer.model": "tokenizer.model", "--seq-len 2048": f"--seq-len {SEQ_LEN}",
             "data/corpus": "readme-data", "configs/130m.json": "preset.json", "models/Llama-2-7b-hf": "teacher",
             "wikitext2-test.txt": f"stories.txt --seq-len {SEQ_LEN} --max-tokens {20 * SEQ_LEN}"}

    def test_its_commands_run_with_small_stand_ins(self):
        preset = {**CONFIG, "model": {**CONFIG["model"], "binarize": "column"}, "objective": {"next_token": 0, "distill": 1},
                  "teacher": {"path": ""}, "data": {"format": "amber", "paths": ["data/amber"]}}
        (WORK / "preset.json").write_text(json.dumps(preset))
        block = re.search(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S).group(1)
        for long, small in self.SMALL.items():
            self.assertIn(long, block)
            block = block.replace(long, small)
        commands = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines() if line.startswith("fbi-llm ")]
        self.assertGreaterEqual(len(commands), 6)
        for command in commands:
            run(*command[1:])
        self.assertTrue((WORK / "export/130m-hf/model.safetensors").exists())


class Presets(unittest.TestCase):
    """Every file in configs/ passes all checks, given data and a teacher of the right kind."""

    def test_dry_run(self):
        paths = sorted((REPOSITORY / "configs").glob("*.json"))
        self.assertGreaterEqual(len(paths), 6)
        for path in paths:
            with self.subTest(path.name):
                config = json.loads(run("config", path))
                vocab, length = config["model"]["vocab_size"], config["train"]["seq_len"]
                write_lines(f"preset-{length}.jsonl", [[1] + [7] * length] * 3)
                teacher = WORK / f"teacher-{vocab}"
                if not teacher.exists():
                    write_teacher(teacher, vocab)
                start = {"train.init_from": teacher.name} if config["train"]["init_from"] else {}
                words = [PROGRAM, "train", "--config", path, "--run-dir", "preset", "--dry-run", *sets({
                    "data.format": "amber", "data.paths": f"preset-{length}.jsonl", "data.skip_files": "[]",
                    "teacher.path": teacher.name, "checkpoint.keep": 2, **start})]
                done = subprocess.run(words, cwd=WORK, capture_output=True, text=True, timeout=120)
                if done.returncode == 7:  # three checkpoints of 13B are more than many disks have
                    self.assertRegex(done.stderr, r"checkpoints and the one being written need .*B, free are .*lower checkpoint\.keep")
                else:
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertIn("all checks passed", done.stdout)

    def test_estimate(self):
        words = ("estimate", "--config", REPOSITORY / "configs/7b.json", "--teacher", REPOSITORY / "configs/7b.json", "--gpus")
        fits = json.loads(run(*words, 8, "--gpu-memory", "80G", "--mfu", 0.5, "--peak-tflops", 1000, "--json"))
        self.assertTrue(fits["fit"]["fits"])
        self.assertEqual(sum(bytes for kind, bytes in fits["memory"]["peak"].items() if kind != "total"), fits["memory"]["peak"]["total"])
        flops = fits["flops_per_token"]["student"] + fits["flops_per_token"]["teacher"]
        self.assertAlmostEqual(fits["days"], fits["tokens"] / (0.5 * 8e15 / flops) / 86400)
        tight = run(*words, 8, "--gpu-memory", "60GiB")
        self.assertRegex(tight, r"(?s)DOES NOT FIT into 64.4 GB less 3.0 GB.*--set parallel.shard_gradients=true")
        self.assertIn("time        unknown", tight)
        self.assertIn("320 times the bits", run(*words, 32))
        for wrong, message in ((("7",), "multiple of 42"), (("8", "--gpu-memory", "80X"), "80GiB"), (("8", "--mfu", "0.4"), "--peak-tflops")):
            self.assertIn(message, run(*words, *wrong, code=2))
        self.assertIn("--teacher FILE", run("estimate", "--config", REPOSITORY / "configs/7b.json", "--gpus", 8, code=2))


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
