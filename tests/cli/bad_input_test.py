"""What fbi-llm says about bad input and broken checkpoints.  Usage: bad_input_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import gzip
import json
import lzma
import pathlib
import resource
import shutil
import struct
import subprocess
import unittest

import program
from program import (DISTILL, SEQ_LEN, VOCAB, WORK, copy, files_below, inspect, resume, run, setUpModule, tearDownModule, train,  # noqa: F401
                     write_lines)


class BrokenCheckpoint(unittest.TestCase):
    def check_falls_back(self, name, damage, *parts):
        folder = copy("student", name) / "checkpoints" / "step-00000020"
        damage(folder)
        output = resume(name, DISTILL)
        for part in ("step-00000020", "continuing from " + name + "/checkpoints/step-00000015, step 15", *parts):
            self.assertIn(part, output)
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
        self.refused(2, ["teacher.path teacher", ": its vocabulary has 320", "400"], {**DISTILL, "model.vocab_size": 400})
        run("prepare", "stories.txt", "--tokenizer", "tokenizer.model", "--seq-len", 96, "--out", "data-96")
        self.refused(2, ["train.seq_len 96 exceeds its max_position_embeddings 64"],
                     {**DISTILL, "train.seq_len": 96, "model.max_position_embeddings": 128, "data.paths": "data-96"})
        self.refused(3, ["nowhere"], {**DISTILL, "teacher.path": "nowhere"})

    def test_first_weights_that_do_not_fit(self):
        for words in ((), ("--dry-run",)):
            self.refused(3, ["train.init_from: tensors in teacher/checkpoints/", "model.layers.0.mlp.gate_proj.weight: expected [64, 32], found [48, 32]",
                             "it takes a model with the sizes of model.*"], {"train.init_from": "teacher", "model.intermediate_size": 64}, words)

    def test_first_weights_with_a_head_of_their_own(self):
        self.refused(3, ["train.init_from: ", "has a head of its own, which a model with model.tie_word_embeddings=true would lose"],
                     {"train.init_from": "teacher", "model.tie_word_embeddings": True})

    def test_products_that_the_planned_gpus_do_not_have(self):
        for products, message in (("tables", "computes in fp32 on the CPU"), ("fp8", "gives bf16 on a GPU")):
            self.refused(2, [f"train.sign_products={products} {message}"],
                         {"train.device": "cuda", "train.sign_products": products, "train.precision": "fp32"}, ("--dry-run", "--gpus", 2))

    def test_teacher_with_keys_that_are_not_implemented(self):
        config = copy("hf", "biased") / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "attention_bias": True, "hidden_act": "gelu"}))
        self.refused(3, ["biased/config.json: 2 problems", "attention_bias = true: not implemented", 'hidden_act = "gelu"'],
                     {**DISTILL, "teacher.path": "biased"})

    def test_model_without_tokenizer(self):
        for file in copy("hf", "wordless").glob("tokenizer*"):
            file.unlink()
        self.assertIn("wordless has no tokenizer.model and no tokenizer.json beside it; name one with --tokenizer",
                      run("generate", "--model", "wordless", "--prompt", "x", code=3))

    def test_another_tokenizer_than_the_teachers(self):
        run("tokenizer", "train", "--input", "stories.txt", "--vocab-size", VOCAB - 8, "--out", "other.model")
        run("prepare", "--input", "stories.txt", "--tokenizer", "other.model", "--seq-len", SEQ_LEN, "--out", "foreign")
        parts = ("prepared with another tokenizer than the teacher's", "foreign/tokenizer.model", "teacher/tokenizer.model",
                 "prepare --tokenizer teacher/tokenizer.model")
        changes = {**DISTILL, "data.paths": ["foreign"]}
        self.refused(3, parts, changes)
        self.refused(3, parts, changes, words=("--dry-run",))
        self.refused(3, ("train.init_from: the data were prepared with another tokenizer than that of the model", *parts[1:]),
                     {"data.paths": ["foreign"], "train.init_from": "teacher"})
        windows = ("foreign/train-00000.tokens was prepared with another tokenizer than the model's: id ", "foreign/tokenizer.model and ")
        self.refused(3, ("evaluation of foreign/train-00000.tokens: ", *windows), {"evaluation.tokens": ["foreign/train-00000.tokens"], "evaluation.every_steps": 5})
        run("export", "--checkpoint", "teacher", "--format", "native", "--out", "native")
        for model in ("teacher", "hf", "native"):
            output = run("eval", "perplexity", "--model", model, "--tokens", "foreign/train-00000.tokens", code=3)
            for part in windows:
                self.assertIn(part, output)
        run("eval", "perplexity", "--model", "hf", "--tokens", "foreign/train-00000.tokens", "--tokenizer", "other.model", "--max-windows", 1)
        done = subprocess.run(program.command("export", "--checkpoint", "teacher", "--tokenizer", "other.model", "--out", "renamed"), cwd=WORK,
                              capture_output=True, text=True)
        self.assertIn("warning --tokenizer is not the tokenizer that the model has: id ", done.stderr)
        shutil.copy(WORK / "tokenizer.model", WORK / "foreign/tokenizer.model")
        self.refused(3, ("foreign/tokenizer.model is not the tokenizer that the shards beside it were prepared with",),
                     {"data.paths": ["foreign"]})

    def test_run_without_checkpoint(self):
        run_directory = copy("teacher", "begun")
        shutil.rmtree(run_directory / "checkpoints")
        for words in (("inspect", "begun"), ("generate", "--model", "begun", "--prompt", "x")):
            self.assertIn("begun: the run has no checkpoint yet", run(*words, code=4))

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
        for words in ((), ("--dry-run",)):
            output = train("changed", "--resume", "auto", *words, code=2, changes={"optimizer.lr": 0.5, "data.seed": 9})
            for part in ("optimizer.lr", "data.seed", "--allow-change"):
                self.assertIn(part, output)

    def test_a_dry_run_finds_what_the_start_would(self):
        before = files_below(WORK / "teacher")
        for code, run_dir, words, part in ((2, "teacher", (), "teacher is not empty"),
                                           (7, "config.json/run", (), "config.json is not a folder"),
                                           (2, "fresh", ("--gpus", "2", "--set", "train.device=auto", "--set", "parallel.backend=gloo"), "gloo is for ranks on CPUs"),
                                           (2, "hf", ("--resume", "auto"), "holds no run to continue"),
                                           (2, "fresh", ("--resume", "nowhere"), "found 'nowhere', which does not exist"),
                                           (2, "fresh", ("--resume", "teacher"), "teacher is a run; name one of its checkpoints, such as teacher/checkpoints/"),
                                           (2, "teacher", ("--resume", "auto", "--allow-change", "optimizer.lrr"), "did you mean optimizer.lr?"),
                                           (2, "teacher", ("--resume", "auto", "--allow-change", "optimizer"), "optimizer is a section")):
            self.assertIn(part, train(run_dir, "--dry-run", *words, code=code))
        self.assertEqual(files_below(WORK / "teacher"), before)
        self.assertFalse((WORK / "fresh").exists())

    def test_a_dry_run_says_how_long(self):
        long = train("fresh", "--dry-run", changes={"train.steps": 10**9, "train.global_batch": 400, "optimizer.total_steps": 0})
        self.assertRegex(long, r"\ntime +at least about \d+d\S* for all steps, if matrix products stay at the [\d.]+ .FLOP/s just measured")
        self.assertIn("note        that is long", long)
        rest = train("teacher", "--resume", "auto", "--dry-run", changes={"train.steps": 10**9})
        self.assertRegex(rest, r"\ntime +at least about \d+d\S* for the \d{9} steps after step \d+, if")
        self.assertNotIn("\ntime ", train("fresh", "--dry-run"), "nothing is measured for seconds of work")

    def test_weights_that_mix_nothing(self):
        for weights, parts in (([0.5], ("data.weights = [0.5]: expected as many numbers as data.paths has entries (2), or none",)),
                               ([1, 0], ("data.weights = [1.0,0.0]: expected a list of numbers, > 0",)),
                               ([1, 1e-9], ("data.weights[1] = 1e-09: expected a share of at least one in 65536 samples",))):
            for words in ((), ("--dry-run",)):
                with self.subTest(weights=weights, words=words):
                    self.refused(2, parts, {"data.paths": ["data", "data"], "data.weights": weights}, words=words)

    def test_a_dry_run_notes_what_is_hardly_meant(self):
        for changes, part in (({"evaluation.every_steps": 5}, "evaluation.every_steps is 5, but evaluation.tokens and evaluation.tasks name nothing"),
                              ({"evaluation.tokens": ["data/valid-00000.tokens"]}, "evaluation.every_steps is 0: evaluation.tokens")):
            done = subprocess.run(program.command(*program.train_words("fresh", "--dry-run", changes=changes)), cwd=WORK, capture_output=True, text=True)
            self.assertIn(part, done.stderr)
        often = train("fresh", "--dry-run", changes={"train.steps": 9000, "optimizer.total_steps": 0})
        self.assertRegex(often, r"reads them [\d.]+ times\nnote +that is often: train.steps")
        mixed = train("fresh", "--dry-run", changes={"data.paths": ["data", "data/valid-00000.tokens"], "data.weights": [3, 2], "train.steps": 900})
        self.assertRegex(mixed, r"data +data, 60 % of the run: \d+ samples .*\n"
                                r"data +data/valid-00000.tokens, 40 % of the run: \d+ samples of 17 ids in 1 file\(s\); the run reads them [\d.]+ times\n"
                                r"note +that is often: its weight is meant for more data")
        rising = train("fresh", "--dry-run", changes={"train.steps": 5, "optimizer.warmup_steps": 5})
        self.assertIn("still rising when the run ends: train.steps is 5, optimizer.warmup_steps 5", rising)
        for changes, is_high in (({"train.steps": 5}, True),
                                 ({"train.steps": 5, "optimizer.schedule": "linear"}, True),
                                 ({"train.steps": 5, "optimizer.schedule": "constant"}, False),
                                 ({"train.steps": 15, "optimizer.schedule": "wsd", "optimizer.decay_steps": 8}, True),
                                 ({"train.steps": 16, "optimizer.schedule": "wsd", "optimizer.decay_steps": 8}, False)):
            with self.subTest(changes):
                self.assertEqual("still high when the run ends" in train("fresh", "--dry-run", changes=changes), is_high)

    def test_a_dry_run_counts_the_checkpoints_that_stay(self):
        many = {"train.steps": 10**9, "checkpoint.keep_every": 1}
        for run_dir, words, count in (("fresh", (), 10**9), ("teacher", ("--resume", "auto"), 10**9 - 2)):
            self.assertRegex(train(run_dir, "--dry-run", *words, code=7, changes=many),
                             f"{count} more checkpoints and the one being written need .*raise checkpoint.keep_every")

    def test_command_line(self):
        for words, parts in ((["trian"], ["unknown verb 'trian'; did you mean 'train'?"]),
                             (["eval", "perplxity"], ["unknown verb 'eval perplxity'; did you mean 'eval perplexity'?"]),
                             (["train", "--confg", "x"], ["unknown option --confg", "did you mean --config?"]),
                             (["train"], ["fbi-llm train needs:", "--config FILE", "--run-dir DIR"]),
                             (["eval"], ["fbi-llm eval perplexity", "fbi-llm eval logits"]),
                             (["generate", "--model", "hf", "--seed", "x"], ["--seed: expected an integer, found 'x'"]),
                             (["generate", "--model", "hf", "--prompt", "x", "--seed", "-1"], ["--seed: expected 0 to", "found -1"]),
                             (["prepare", "stories.txt", "--out", "x", "--seed", "-1"], ["--seed: expected 0 to", "found -1"]),
                             (["generate", "--model", "hf", "--prompt", "x", "--temperature", "-1"], ["temperature must be", "found -1"]),
                             (["generate", "--model", "hf", "--threads", "-1"], ["--threads: expected 0 (all processors) to 4096, found -1"]),
                             (["prepare", "stories.txt", "--out", "x", "--threads", "9999"], ["--threads", "found 9999"]),
                             (["eval", "perplexity", "--model", "hf"], ["--tokens FILE or --text FILE"]),
                             (["export", "--checkpoint", "hf", "--format", "gguff", "--out", "x"], ["hf, native, packed, gguf or gguf-q1_0", "gguff"]),
                             (["export", "--checkpoint", "hf", "--format", "native", "--dtype", "fp32", "--out", "x"], ["a native export is always fp32"]),
                             (["export", "--checkpoint", "hf", "--format", "gguf-q1_0", "--dtype", "fp32", "--out", "x"], ["gguf-q1_0 export are always fp16"]),
                             (["export", "--checkpoint", "hf", "--format", "packed", "--published-fp16-zeros", "--out", "x"], ["a bit has no zero"]),
                             (["prepare", "stories.txt", "--out", "x", "--json"], ["unknown option --json of fbi-llm prepare", " See fbi-llm prepare --help"]),
                             (["train", "--config", "config.json", "--run-dir", ""], ["--run-dir: expected DIR, found ''"]),
                             (["train", "--config", "config.json", "--run-dir", "x", "--dry-run=false"], ["--dry-run takes no value; leave it out"]),
                             (["launch", "--nproc", "2", "train", "--config", "config.json"], ["put -- before the verb", "launch … -- train …"])):
            with self.subTest(" ".join(words)):
                output = run(*words, code=2)
                for part in parts:
                    self.assertIn(part, output)

    def test_options_that_do_not_apply(self):
        tokens = ("--tokens", "data/valid-00000.tokens")
        for words, part in ((("generate", "--model", "hf", "--prompt", "x", "--head", "int8"), "--head is for packed exports, and hf is none; --dtype"),
                            (("eval", "perplexity", "--model", "hf", *tokens, "--cache", "fp16"), "--cache is for packed exports"),
                            (("eval", "perplexity", "--model", "hf", *tokens, "--seq-len", 8), "--seq-len is for --text"),
                            (("eval", "perplexity", "--model", "hf", *tokens, "--max-tokens", 8), "--max-tokens is for --text"),
                            (("eval", "logits", "--model", "hf", *tokens, "--max-windows", -1, "--out", "x"), "--max-windows: expected 0 to"),
                            (("prepare", "stories.txt", "--tokenizer", "tokenizer.model", "--vocab-size", 320, "--out", "x"), "--vocab-size is for ids"),
                            (("prepare", "stories.txt", "--tokenizer", "tokenizer.model", "--field", "text", "--out", "x"), "field text is for JSON lines"),
                            (("export", "--checkpoint", "hf", "--format", "hf", "--published-fp16-zeros", "--out", "x"), "the model has none"),
                            (("eval", "logits", "--model", "hf", "--text", "stories.txt", "--seq-len", 300, "--out", "x"),
                             "windows of 300 tokens, but the model has 64 positions; give a smaller --seq-len"),
                            (("export", "--checkpoint", "hf", "--format", "native", "--published-fp16-zeros", "--out", "x"), "a native export is always fp32"),
                            (("config", "--set", "optimizer.lr=1"), "--set changes what --config reads"),
                            (("config", "config.json", "--explain", "optimizer"), "--config is not read with --explain"),
                            (("estimate", "--config", "config.json", "--gpus", 1, "--tokens-per-second", "inf"), "expected a positive number, found inf")):
            with self.subTest(" ".join(map(str, words))):
                self.assertIn(part, run(*words, code=2))
        self.assertFalse((WORK / "x").exists())

    def test_outputs_are_checked_before_the_work(self):
        (WORK / "task.jsonl").write_text(json.dumps({"context": "a", "choices": ["b", "c"], "gold": 0}) + "\n")
        write_lines("windows.jsonl", [[1, 5, 6]])
        logits = ("eval", "logits", "--model", "hf", "--tokens", "windows.jsonl", "--out")
        choice = ("eval", "choice", "--model", "hf", "--tasks", "task.jsonl", "--samples")
        slurm = ("slurm", "--config", "config.json", "--nodes", 1, "--gpus-per-node", 0, "--ranks-per-node", 1, "--out")
        before = files_below(WORK)
        for code, words, part in ((7, (*logits, "nodir/x"), "--out nodir/x: the folder nodir is missing: mkdir -p nodir"),
                                  (2, (*logits, "data"), "found 'data', a folder"),
                                  (2, (*logits, "/dev/null"), "is no regular file"),
                                  (2, (*logits, "windows.jsonl"), "--out windows.jsonl is also read"),
                                  (2, (*logits, "./hf/config.json"), "--out ./hf/config.json is also read"),
                                  (7, (*choice, "nodir/x"), "--samples nodir/x: the folder nodir is missing"),
                                  (2, (*choice, "./task.jsonl"), "is also read (task.jsonl) and would be overwritten"),
                                  (2, (*slurm, "config.json"), "--out config.json is also read"),
                                  (7, ("tokenizer", "train", "stories.txt", "--vocab-size", VOCAB, "--out", "nodir/x.model"), "nodir is missing"),
                                  (2, ("tokenizer", "train", "stories.txt", "--vocab-size", VOCAB, "--out", "stories.txt"), "is also read"),
                                  (2, ("plot", "teacher", "--out", "data"), "found 'data', a folder"),
                                  (2, ("plot", "teacher", "--out", "teacher/metrics.jsonl"), "is also read")):
            with self.subTest(" ".join(map(str, words))):
                self.assertIn(part, run(*words, code=code))
        self.assertEqual(files_below(WORK), before)

    def test_what_is_missing_is_named_with_what_helps(self):
        self.assertIn("cannot read nope: No such file or directory; expected a file of JSON lines, or FORM=FILE with one of the forms boolq",
                      run("eval", "choice", "--model", "hf", "--tasks", "nope", code=3))
        self.refused(3, ["stories.txt: not a token shard", "make shards", "fbi-llm prepare"], {"data.paths": "stories.txt"})
        self.refused(3, ["org/name is not a folder", "hf download org/name --local-dir org/name"], {**DISTILL, "teacher.path": "org/name"})

    def test_logits_of_a_sample_as_long_as_the_model_reads(self):
        write_lines("longest.jsonl", [[1] + [5] * 64])
        logits = run("eval", "logits", "--model", "hf", "--tokens", "longest.jsonl", "--out", "longest.safetensors")
        self.assertIn("logits [1, 65, 320]", logits)

    def test_packed_texts(self):
        stories = (WORK / "stories.txt").read_bytes()
        (WORK / "packed.txt.gz").write_bytes(gzip.compress(stories))
        (WORK / "packed.txt.xz").write_bytes(lzma.compress(stories))
        for words in (("tokenizer", "train", "--vocab-size", VOCAB, "--out", "x", "--input"),
                      ("prepare", "--tokenizer", "tokenizer.model", "--seq-len", "16", "--out", "packed", "--input"),
                      ("eval", "perplexity", "--model", "hf", "--seq-len", 32, "--text")):
            with self.subTest(words[0]):
                run(*words, "packed.txt.gz")
                self.assertIn("packed.txt.xz is a file of xz, not text; unpack it: xz -dk packed.txt.xz", run(*words, "packed.txt.xz", code=3))

    def test_an_output_where_a_disk_is_mounted(self):
        if any(pathlib.Path("/dev/shm").iterdir()):
            self.skipTest("/dev/shm is not empty")
        for words in (("prepare", "stories.txt", "--tokenizer", "tokenizer.model"), ("export", "--checkpoint", "hf", "--format", "hf")):
            self.assertIn("/dev/shm is where a disk is mounted; name a folder inside it", run(*words, "--out", "/dev/shm", code=2))

    def test_names_of_tasks(self):
        task = json.dumps({"context": "a", "choices": ["b", "c"], "gold": 0}) + "\n"
        for name in ("one/task.jsonl", "two/task.jsonl", "a=b.jsonl", "caf\udce9.jsonl"):  # the last one is no UTF-8
            (WORK / name).parent.mkdir(exist_ok=True)
            (WORK / name).write_text(task)
        choice = ("eval", "choice", "--model", "hf", "--json", "--tasks")
        self.assertIn("two are called task", run(*choice, "one/task.jsonl", "--tasks", "two/task.jsonl", code=2))
        self.assertEqual(list(json.loads(run(*choice, "a=b.jsonl"))["results"]), ["a=b"])
        self.assertEqual(list(json.loads(run(*choice, "caf\udce9.jsonl"))["results"]), ["caf\ufffd"])

    def test_too_little_memory(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        large = {"model.hidden_size": 1 << 14, "model.intermediate_size": 1 << 16, "model.num_attention_heads": 128}
        said = run(*program.train_words("large", changes=large), code=1, preexec_fn=limit)
        self.assertIn("out of memory; try a smaller train.micro_batch", said)
        self.assertNotIn("frame", said)

    def test_a_full_disk_behind_standard_output(self):
        for words in (("config", "config.json"), ("--help",), ("inspect", "--json", "hf")):
            with self.subTest(words[0]), open("/dev/full", "w") as full:
                done = subprocess.run(program.command(*words), cwd=WORK, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
                self.assertEqual(done.returncode, 7, done.stderr)
                self.assertIn("cannot write standard output", done.stderr)


if __name__ == "__main__":
    program.main()
