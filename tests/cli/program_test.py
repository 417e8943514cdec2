"""fbi-llm as its users meet it: the main job from a text to an exported model, and what happens when it is interrupted.
Usage: program_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import array
import contextlib
import fcntl
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import threading
import unittest
import xml.dom.minidom

import program  # and with it the folder of small_job and processes
import small_job
from processes import wait_until
from program import (CONFIG, DISTILL, REPOSITORY, SEQ_LEN, VOCAB, WORK, files_below, inspect, metrics, resume, run, sets, setUpModule,  # noqa: F401
                     tearDownModule, train, what_was_computed, write_lines)

STEPS = 120  # of runs that are interrupted
F_SETPIPE_SZ = 1031  # of Linux; fcntl has the name since Python 3.10


def read_logits(path):
    data = (WORK / path).read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    values = array.array("f", data[8 + length:])
    return header["logits"]["shape"], header["logits"]["dtype"], values


SMALLEST = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}


def write_zeros(folder, model):
    """A dense Hugging Face folder with these sizes, for checks that read no more than its headers."""
    sizes = {key: model[key] for key in (*SMALLEST, "vocab_size")}
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": model.get("tie_word_embeddings", False)}
    (folder / "config.json").write_text(json.dumps(config))
    vocab, hidden, inner = sizes["vocab_size"], sizes["hidden_size"], sizes["intermediate_size"]
    keys = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    matrices = {"self_attn.q": [hidden, hidden], "self_attn.k": [keys, hidden], "self_attn.v": [keys, hidden], "self_attn.o": [hidden, hidden],
                "mlp.gate": [inner, hidden], "mlp.up": [inner, hidden], "mlp.down": [hidden, inner]}
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    for layer in range(sizes["num_hidden_layers"]):
        for name, shape in matrices.items():
            shapes[f"model.layers.{layer}.{name}_proj.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = [hidden]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


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

    def test_mixed_corpora_are_read_on_when_a_run_is_continued(self):
        mixed = {"data.paths": ["data", "data/valid-00000.tokens"], "data.weights": [0.7, 0.3]}
        train("mixed", changes=mixed)
        log = (WORK / "mixed" / "train.log").read_text()
        self.assertRegex(log, r"data: data, 70 % of the run: \d+ samples of 17 ids in 1 file\(s\); the run reads them 0\.\d+ times\n")
        self.assertRegex(log, r"data: data/valid-00000.tokens, 30 % of the run: \d+ samples")
        train("mixed-parts", changes={**mixed, "train.steps": 7})
        resume("mixed-parts", mixed)
        self.assertEqual(what_was_computed("mixed-parts"), what_was_computed("mixed"))
        self.assertEqual(inspect("mixed-parts"), inspect("mixed"))
        self.assertNotEqual(metrics("mixed")[0]["loss"], metrics("teacher")[0]["loss"])

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

    def test_all_tasks_of_the_paper_have_their_average(self):
        labelled = {"choices": {"text": ["a fox", "a cat"], "label": ["A", "B"]}, "answerKey": "A"}
        tasks = {"boolq": {"passage": "A fox ran.", "question": "did it run", "label": 1},
                 "piqa": {"goal": "Run", "sol1": "fast", "sol2": "slow", "label": 0},
                 "hellaswag": {"activity_label": "Run", "ctx_a": "A fox", "ctx_b": "then", "endings": ["ran", "sat"], "label": "0"},
                 "winogrande": {"sentence": "The fox saw that _ ran.", "option1": "a cat", "option2": "a dog", "answer": "1"},
                 "arc_easy": {"question": "Who ran", **labelled}, "arc_challenge": {"question": "Who sat", **labelled},
                 "openbookqa": {"question_stem": "Who ran", **labelled}}
        for name, line in tasks.items():
            (WORK / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        words = ["eval", "choice", "--model", "student", "--threads", 1]
        words += [word for name in tasks for word in ("--tasks", f"{name}={name}.jsonl")]
        result = json.loads(run(*words, "--json"))
        scores = [score.get("acc_norm,none", score["acc,none"]) for score in result["results"].values()]
        self.assertAlmostEqual(result["published_average"], sum(scores) / 7)
        self.assertRegex(run(*words), r"\naverage as published \(.*\): [\d.]+\n$")
        self.assertNotIn("average", run(*words[:-2]))

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


class Tokenizers(unittest.TestCase):
    """What goes along with a model, or does not."""

    def stderr_of(self, *words):
        done = subprocess.run(program.command(*words), cwd=WORK, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def test_an_export_without_one_says_so(self):
        shutil.copytree(WORK / "hf", WORK / "wordless")
        for file in (WORK / "wordless").glob("*token*"):
            file.unlink()
        text = self.stderr_of("export", "--checkpoint", "wordless", "--out", "wordless-hf")
        self.assertRegex(text, r"warning no tokenizer in wordless, so the export has none: .*; give --tokenizer FILE")
        self.assertNotIn("AutoTokenizer", (WORK / "wordless-hf/README.md").read_text())
        self.assertRegex(self.stderr_of("import", "--from", "wordless", "--out", "wordless-imported"), "warning no tokenizer in wordless, so .* has none")
        self.assertNotIn("warning", self.stderr_of("export", "--checkpoint", "hf", "--out", "hf-again"))
        self.assertIn("AutoTokenizer", (WORK / "hf-again/README.md").read_text())

    def test_one_that_is_not_read_goes_along_as_it_is(self):
        shutil.copytree(WORK / "student", WORK / "unread")
        (WORK / "unread/tokenizer.model").unlink()
        (WORK / "unread/tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
        for kind in ("hf", "native", "packed"):
            with self.subTest(kind):
                self.assertRegex(self.stderr_of("export", "--checkpoint", "unread", "--format", kind, "--out", f"unread-{kind}"),
                                 r"the tokenizer's files are copied as they are, .*unread/tokenizer\.json")
                self.assertEqual((WORK / f"unread-{kind}/tokenizer.json").read_text(), '{"model": {"type": "Unigram"}}')
        self.assertRegex(run("export", "--checkpoint", "unread", "--format", "gguf", "--out", "unread-gguf", code=2),
                         r"a GGUF export holds the pieces of the tokenizer, .*unread/tokenizer\.json.*as hf")
        self.assertFalse((WORK / "unread-gguf").exists())
        run("export", "--checkpoint", "unread", "--format", "gguf", "--tokenizer", "tokenizer.model", "--out", "unread-gguf")

    def test_one_that_is_damaged_is_an_error(self):
        shutil.copytree(WORK / "student", WORK / "damaged")
        (WORK / "damaged/tokenizer.model").write_bytes((WORK / "student/tokenizer.model").read_bytes()[:2000])
        self.assertIn("damaged/tokenizer.model", run("export", "--checkpoint", "damaged", "--format", "hf", "--out", "damaged-hf", code=3))
        self.assertFalse((WORK / "damaged-hf").exists())

    def test_special_tokens_that_are_not_the_models_are_noted(self):
        other = {"model.bos_token_id": 5, "model.eos_token_id": [7, 8]}
        text = self.stderr_of(*program.train_words("not-there", "--dry-run", changes=other))
        for part in ("its BOS is 1, but model.bos_token_id is 5; set the field", "its EOS is 2, but model.eos_token_id is [7,8]; set the field"):
            self.assertIn(part, text)
        self.assertNotIn("model.bos_token_id", self.stderr_of(*program.train_words("not-there", "--dry-run")))


class Ended(unittest.TestCase):
    """Verbs that have no state to save end as any program does."""

    def test_by_a_signal(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            with self.subTest(number), subprocess.Popen(program.command("generate", "--model", "hf", "--prompt-file", "-"), cwd=WORK, bufsize=0,
                                                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                self.addCleanup(process.kill)
                process.stdin.write(b"One day")

                def has_read():
                    waiting = fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4))
                    return process.poll() is not None or waiting == bytes(4)
                wait_until(has_read, "the prompt is read")
                self.assertIsNone(process.poll())
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=60), -number)

    def test_by_a_reader_that_has_gone(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(program.command("generate", "--model", "hf", "--prompt", "One day"), cwd=WORK, stdout=write, stderr=subprocess.PIPE,
                              timeout=120)
        os.close(write)
        self.assertEqual(done.returncode, -signal.SIGPIPE, done.stderr)


    def test_a_preparation_that_is_stopped_leaves_nothing(self):
        with open(WORK / "long.txt", "w") as long:
            long.writelines([(WORK / "stories.txt").read_text()] * 1000)
        terminal, stderr = os.openpty()
        process = subprocess.Popen(program.command("prepare", "--input", "long.txt", "--tokenizer", "tokenizer.model", "--threads", 1, "--out", "long"),
                                   cwd=WORK, stdout=subprocess.DEVNULL, stderr=stderr)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        os.close(stderr)
        printed = []

        def read():
            with contextlib.suppress(OSError):  # the other end is closed
                while data := os.read(terminal, 4096):
                    printed.append(data)
        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: process.poll() is not None or list(WORK.glob("long.partial*")), "the preparation has begun")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=120), 75)
        reader.join()
        os.close(terminal)
        text = b"".join(printed).decode()
        self.assertIn("Ctrl-C again ends at once", text)
        self.assertIn("stopped; long is as it was before", text)
        self.assertEqual([path.name for path in WORK.glob("long*")], ["long.txt"])


class Interrupted(unittest.TestCase):
    """Whatever stops a run: continued, it ends with the bits of one that nothing stopped."""

    CHANGES = {**DISTILL, "train.steps": STEPS, "optimizer.total_steps": STEPS, "checkpoint.every_steps": 10, "log.every_steps": 1}

    @classmethod
    def setUpClass(cls):
        train("whole", changes=cls.CHANGES)
        cls.tensors, cls.metrics = inspect("whole"), what_was_computed("whole")

    def start(self, name, steps_before=13):
        """A run in the background that has done some steps, and where to read what it prints. It prints a line for each step, into a pipe that
        holds some 70 of them: the run waits there for a reader, and cannot end before it is interrupted."""
        words = program.command(*program.train_words(name, changes=self.CHANGES))
        read, write = os.pipe()
        output = open(read)
        self.addCleanup(output.close)
        fcntl.fcntl(write, F_SETPIPE_SZ, 8192)
        process = subprocess.Popen(words, cwd=WORK, stdout=subprocess.DEVNULL, stderr=write)
        os.close(write)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_until(lambda: process.poll() is not None or small_job.steps_done(WORK / name) >= steps_before, "some steps")
        return process, output

    def finish(self, name):
        output = resume(name, self.CHANGES)
        self.assertEqual(inspect(name), self.tensors)
        self.assertEqual(what_was_computed(name), self.metrics)
        return output

    def test_asked_to_stop_it_saves_and_continues(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            name = f"stopped-by-{int(number)}"
            process, output = self.start(name)
            process.send_signal(number)
            text = output.read()
            self.assertEqual(process.wait(), 75, text)
            self.assertIn(f"stopped by signal {int(number)} at step", text)
            self.assertLess(len(metrics(name)), STEPS)
            self.assertIn(f"step {len(metrics(name))}", self.finish(name))

    def test_killed_it_continues_from_the_last_checkpoint(self):
        process, _ = self.start("killed", steps_before=23)
        process.kill()
        process.wait()
        self.assertRegex(self.finish("killed"), r"continuing from killed/checkpoints/step-0+\d+0, step \d+0")

    def test_a_second_run_is_refused_while_the_first_lives(self):
        process, output = self.start("live", steps_before=1)
        self.assertIn(f"in use by process {process.pid} ", train("live", "--resume", "auto", code=2, changes=self.CHANGES))
        process.terminate()
        text = output.read()
        self.assertEqual(process.wait(), 75, text)

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


class Pages(unittest.TestCase):
    """Commands of README.md and docs/own-model.md, with small stand-ins for their files."""

    SMALL = {"$fbi ": "fbi-llm ", "corpus.txt": "stories.txt", "models/teacher": "hf", "--seq-len 512": f"--seq-len {SEQ_LEN}",
             "data/own": "own-data", "configs/own.json": "own.json"}

    def run_commands_of(self, page):
        config = json.loads(run("config", REPOSITORY / "configs/own.json"))
        (WORK / "own.json").write_text(json.dumps({
            **config, "model": {**CONFIG["model"], "binarize": "column"}, "optimizer": CONFIG["optimizer"], "train": CONFIG["train"],
            "data": {"paths": ["own-data"]}, "teacher": {"path": "hf"}, "evaluation": {"every_steps": 10, "tokens": ["own-data/valid-00000.tokens"]}}))
        text = "".join(re.findall(r"```bash\n(.*?)```", (REPOSITORY / page).read_text(), re.S))
        for long, small in self.SMALL.items():
            text = text.replace(long, small)
        commands = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith("fbi-llm ")]
        self.assertGreaterEqual(len(commands), 7)
        for words in commands:
            run(*words[1:])
        self.assertTrue((WORK / "export/own-hf/model.safetensors").exists())
        self.assertTrue((WORK / "export/own/checksums.json").exists())
        for folder in ("runs", "export", "own-data"):
            shutil.rmtree(WORK / folder)

    def test_their_commands_run(self):
        for page in ("README.md", "docs/own-model.md"):
            with self.subTest(page):
                self.run_commands_of(page)


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
                    write_zeros(teacher, {**SMALLEST, "vocab_size": vocab})
                start = {}
                if config["train"]["init_from"]:
                    start["train.init_from"] = f"start-of-{path.stem}"
                    write_zeros(WORK / start["train.init_from"], config["model"])
                words = program.command("train", "--config", path, "--run-dir", "preset", "--dry-run", *sets({
                    "data.format": "amber", "data.paths": f"preset-{length}.jsonl", "data.skip_files": "[]",
                    "teacher.path": teacher.name, "evaluation.tokens": "[]", "checkpoint.keep": 2, **start}))
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
    program.main()
