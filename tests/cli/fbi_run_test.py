"""fbi-run beside fbi-llm: a packed export gives the trainer's text and logits, faster settings say what they cost, and
bad input is refused.  Usage: fbi_run_test.py PATH-OF-FBI-LLM PATH-OF-FBI-RUN [unittest arguments]"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FBI_LLM = FBI_RUN = None
WORK = None  # folder with what setUpModule makes: tokenizer.model, data, student, packed
REPORT = None  # what the export to packed printed

CONFIG = {
    "model": {"vocab_size": 320, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
              "num_key_value_heads": 2, "max_position_embeddings": 256, "binarize": "column"},
    "data": {"paths": ["data"]},
    "objective": {"next_token": 1.0, "distill": 0.0},
    "optimizer": {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2, "total_steps": 30},
    "train": {"seq_len": 16, "global_batch": 8, "micro_batch": 8, "steps": 30, "threads": 1, "device": "cpu"},
}
PROMPT = "One day, "


def call(program, *words, code=0, **options):
    """Runs a program, expects the exit code, returns what it printed: stdout, or everything when it was to fail."""
    done = subprocess.run([program, *map(str, words)], cwd=WORK, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != code:
        raise AssertionError(f"{program} {' '.join(map(str, words))}\nexit code {done.returncode}, expected {code}\n"
                             f"{done.stdout}{done.stderr}")
    return done.stdout if code == 0 else done.stdout + done.stderr


def generate(program, model, *words, threads=1):
    return json.loads(call(program, "generate", "--model", model, "--prompt", PROMPT, "--threads", threads, "--json", *words))


def copy_of_packed(name):
    shutil.copytree(WORK / "packed", WORK / name)
    return WORK / name


def setUpModule():
    global WORK, REPORT
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-run-test-"))
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "make_stories.py", "--out", WORK / "stories.txt", "--bytes", "30000"],
                   check=True, capture_output=True)
    (WORK / "config.json").write_text(json.dumps(CONFIG))
    call(FBI_LLM, "tokenizer", "train", "--input", "stories.txt", "--vocab-size", 320, "--out", "tokenizer.model")
    call(FBI_LLM, "prepare", "--input", "stories.txt", "--tokenizer", "tokenizer.model", "--seq-len", 16, "--out", "data")
    call(FBI_LLM, "train", "--config", "config.json", "--run-dir", "student")
    REPORT = call(FBI_LLM, "export", "--checkpoint", "student", "--format", "packed", "--dtype", "fp32", "--out", "packed")


def tearDownModule():
    shutil.rmtree(WORK)


class Packed(unittest.TestCase):
    def test_exact_mode_agrees_with_the_trainer(self):
        divergence = float(re.search(r"\(KL (\S+) nats", REPORT).group(1))
        self.assertLess(divergence, 1e-6)
        expected = generate(FBI_LLM, "student", "--temperature", 0, "--max-new-tokens", 200)
        found = generate(FBI_RUN, "packed", "--temperature", 0, "--max-new-tokens", 200)
        halves = generate(FBI_RUN, "packed", "--temperature", 0, "--max-new-tokens", 200, "--cache", "fp16")
        self.assertEqual(halves["ids"], found["ids"])
        self.assertEqual(len(expected["ids"]), 200)
        self.assertEqual(found["ids"], expected["ids"])
        self.assertEqual(found["text"], expected["text"])

    def test_the_text_does_not_depend_on_threads_or_program(self):
        words = ("--temperature", 0.8, "--top-k", 40, "--seed", 5, "--max-new-tokens", 60)
        one = generate(FBI_RUN, "packed", *words)
        self.assertEqual(generate(FBI_RUN, "packed", *words, threads=3)["ids"], one["ids"])
        self.assertEqual(generate(FBI_LLM, "packed", *words)["ids"], one["ids"])

    def test_a_native_export_runs_too(self):
        call(FBI_LLM, "export", "--checkpoint", "student", "--format", "native", "--out", "native")
        words = ("--temperature", 0, "--max-new-tokens", 40)
        self.assertEqual(generate(FBI_RUN, "native", *words)["ids"], generate(FBI_RUN, "packed", *words)["ids"])

    def test_prompts_come_from_files_and_standard_input(self):
        words = ("--model", "packed", "--temperature", 0, "--max-new-tokens", 10, "--threads", 1)
        expected = call(FBI_RUN, "generate", *words, "--prompt", PROMPT)
        self.assertTrue(expected.startswith(PROMPT))
        (WORK / "prompt.txt").write_text(PROMPT)
        self.assertEqual(call(FBI_RUN, "generate", *words, "--prompt-file", "prompt.txt"), expected)
        self.assertEqual(call(FBI_RUN, "generate", *words, "--prompt-file", "-", input=PROMPT), expected)
        for text in (PROMPT + "\n", PROMPT + "\r\n", "\ufeff" + PROMPT):
            (WORK / "edited.txt").write_bytes(text.encode())
            self.assertEqual(call(FBI_RUN, "generate", *words, "--prompt-file", "edited.txt"), expected)
        done = subprocess.run(["bash", "-c", 'exec "$0" generate "${@:2}" --prompt-file <(printf "%s\n" "$1")', FBI_RUN, PROMPT, *map(str, words)],
                              cwd=WORK, capture_output=True, text=True)
        self.assertEqual(done.stdout, expected, done.stderr)

    def test_choices_are_those_of_the_trainer(self):
        names = ["cat", "dog", "fox"]
        lines = [{"context": f"One day, a {name} named Tom", "choices": [f"saw the {other}.", "ran", "was very happy and ran home"],
                  "gold": number % 3} for number, name in enumerate(names) for other in names]
        (WORK / "pets.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        tasks = ("--tasks", "pets.jsonl", "--tokenizer", "tokenizer.model", "--threads", 1, "--json", "--samples")
        expected = json.loads(call(FBI_LLM, "eval", "choice", "--model", "student", *tasks, "trainer.jsonl"))
        found = json.loads(call(FBI_RUN, "choice", "--model", "packed", *tasks, "run.jsonl"))
        self.assertEqual(found["results"], expected["results"])
        samples = [[json.loads(line) for line in (WORK / name).read_text().splitlines()] for name in ("trainer.jsonl", "run.jsonl")]
        self.assertEqual(len(samples[1]), len(lines))
        for trainer, packed in zip(*samples):
            for one, other in zip(trainer["filtered_resps"], packed["filtered_resps"]):
                self.assertAlmostEqual(one, other, places=4)
        same = call(FBI_LLM, "eval", "choice", "--model", "packed", *tasks, "same.jsonl", "--batch", 5)
        self.assertEqual(json.loads(same), found)
        self.assertEqual((WORK / "same.jsonl").read_text(), (WORK / "run.jsonl").read_text())

    def test_perplexity_is_that_of_the_trainer(self):
        data = ("--text", "stories.txt", "--seq-len", 32, "--max-windows", 6, "--threads", 1, "--json")
        expected = json.loads(call(FBI_LLM, "eval", "perplexity", "--model", "student", "--tokenizer", "tokenizer.model", *data))
        found = json.loads(call(FBI_RUN, "perplexity", "--model", "packed", "--tokenizer", "tokenizer.model", *data))
        self.assertAlmostEqual(found["mean_nll"], expected["mean_nll"], places=5)
        self.assertEqual(found["windows"], expected["windows"])
        same = json.loads(call(FBI_LLM, "eval", "perplexity", "--model", "packed", "--tokenizer", "tokenizer.model", *data))
        self.assertEqual(same, found)
        words = ("perplexity", "--model", "packed", *data, "--batch", 2 ** 63 - 1)
        self.assertAlmostEqual(json.loads(call(FBI_RUN, *words))["mean_nll"], found["mean_nll"], places=5)

    def test_inspect_shows_bits(self):
        tensors = {line["name"]: line for line in json.loads(call(FBI_RUN, "inspect", "--json", "packed"))}
        bits = tensors["model.layers.1.mlp.down_proj.weight_bits"]
        self.assertEqual((bits["dtype"], bits["shape"]), ("U8", [48, 10]))

    def test_a_screen_of_the_head_changes_no_text(self):
        words = ("generate", "--model", "packed", "--tokenizer", "tokenizer.model", "--prompt", "Once", "--max-new-tokens", 20)
        for drawing in (("--temperature", 0), ("--temperature", 1, "--top-k", 3, "--seed", 1)):
            texts = [call(FBI_RUN, *words, *drawing, "--head-screen", choice) for choice in ("on", "off")]
            self.assertEqual(*texts)
        self.assertIn("expected one of off, on; found 'maybe'", call(FBI_RUN, *words, "--head-screen", "maybe", code=2))

    def test_bench_compares_variants(self):
        words = ("bench", "--threads", 1, "--prompt-tokens", 20, "--new-tokens", 5, "--json")
        variants = json.loads(call(FBI_RUN, *words, "--model", "packed", "--compare"))
        self.assertEqual([v["name"] for v in variants], ["exact", "exact, fp16 cache", "exact, int8 head", "exact, int8 head, fp16 cache", "int8", "int8, fp16 cache",
                                                           "int8, int8 head", "int8, int8 head, fp16 cache"])
        self.assertEqual(variants[0]["mean_kl"], 0)
        self.assertLess(variants[1]["mean_kl"], 1e-6)
        for variant in variants[1:]:
            self.assertLess(0, variant["mean_kl"])
            self.assertLess(variant["mean_kl"], 0.05)
        for variant in variants:
            self.assertGreater(variant["tokens_per_second"], 0)
            self.assertGreater(variant["bandwidth_share"], 0)
        kernels = json.loads(call(FBI_RUN, *words, "--model", "packed", "--kernels"))
        self.assertEqual(kernels[0]["mean_kl"], 0)
        self.assertEqual(kernels[-1]["name"], "portable")
        for variant in kernels:
            self.assertEqual(variant["kernels"], variant["name"])
            self.assertLess(abs(variant["mean_kl"]), 1e-9, "exact kernels round differently, no more")
        both = [v["name"] for v in json.loads(call(FBI_RUN, *words, "--model", "packed", "--compare", "--kernels"))]
        self.assertEqual(both, [v["name"] for v in variants + kernels])
        (single,) = json.loads(call(FBI_RUN, *words, "--config", REPOSITORY / "configs" / "quickstart_student.json"))
        self.assertIn("1-bit weights, fp32 activations", single["dtype"])
        (several,) = json.loads(call(FBI_RUN, *words, "--model", "packed", "--texts", 3))
        self.assertLess(several["bytes_per_token"], variants[0]["bytes_per_token"], "they share the weights")

    def test_the_large_program_measures_and_serves_too(self):
        (measured,) = json.loads(call(FBI_LLM, "bench", "--model", "packed", "--threads", 1, "--prompt-tokens", 5, "--new-tokens", 3, "--json"))
        self.assertIn("1-bit weights", measured["dtype"])
        with subprocess.Popen([FBI_LLM, "serve", "--model", "packed", "--port", "0", "--threads", "1"], cwd=WORK, stderr=subprocess.PIPE,
                              text=True) as server:
            try:
                address = next(found.group(1) for found in (re.search(r"listening on (http://\S+)", line) for line in server.stderr) if found)
                body = json.dumps({"prompt": PROMPT, "temperature": 0, "max_tokens": 20}).encode()
                with urllib.request.urlopen(address + "/v1/completions", body, timeout=120) as answer:
                    text = json.load(answer)["choices"][0]["text"]
            finally:
                server.terminate()
            server.stderr.read()
            self.assertEqual(server.wait(120), 0)
        self.assertEqual(text, generate(FBI_RUN, "packed", "--temperature", 0, "--max-new-tokens", 20)["text"])

    def test_reference_page_is_what_the_verbs_say(self):
        self.assertEqual((REPOSITORY / "docs" / "fbi-run.md").read_text(), call(FBI_RUN, "help", "--markdown"),
                         "write it anew with: fbi-run help --markdown > docs/fbi-run.md")


class BadInput(unittest.TestCase):
    def refuse(self, code, *words, says):
        message = call(FBI_RUN, *words, code=code)
        for part in says:
            self.assertIn(part, message)

    def test_command_line(self):
        self.refuse(2, "dance", says=["dance", "fbi-run --help"])
        self.refuse(2, "generate", says=["--model", "fbi-run generate needs"])
        self.refuse(2, "generate", "--model", "packed", "--activations", "int4", says=["exact, int8", "int4"])
        self.refuse(2, "generate", "--model", "packed", "--prompt", "a", "--prompt-file", "b", says=["--prompt-file"])
        self.refuse(2, "generate", "--model", "packed", "--prompt", "word " * 400, says=["256", "shorten"])
        self.refuse(2, "bench", says=["--model DIR", "--config FILE"])
        for words in (("--prompt-tokens", 2 ** 63 - 1), ("--new-tokens", 2 ** 63 - 1), ("--prompt-tokens", 200, "--new-tokens", 57)):
            self.refuse(2, "bench", "--model", "packed", *words, says=["--prompt-tokens", "--new-tokens", "expected at most 256 together"])
        deep = 500_000
        (WORK / "deep.json").write_text('{"model": ' + "[" * deep + "]" * deep + "}")
        self.refuse(3, "bench", "--config", "deep.json", says=["deep.json", "nested deeper than 64 levels"])
        self.refuse(2, "perplexity", "--model", "packed", "--tokens", "data/train-00000.tokens", "--seq-len", 8, says=["--seq-len is for --text"])

    def test_a_run_is_to_be_packed_first(self):
        for words in (("generate", "--prompt", "a"), ("serve", "--port", 0), ("bench",), ("perplexity", "--text", "stories.txt")):
            self.refuse(2, *words, "--model", "student",
                        says=["student is a run; pack it: fbi-llm export --checkpoint student --format packed --out"])
        checkpoint = "student/checkpoints/step-00000030"
        self.refuse(2, "generate", "--model", checkpoint, says=[f"{checkpoint} is a checkpoint; pack it"])

    def test_a_packed_export_is_a_model_like_others(self):
        for form in ("hf", "packed"):
            for source in ("student", "packed"):
                call(FBI_LLM, "export", "--checkpoint", source, "--format", form, "--dtype", "fp32", "--out", f"{form}-of-{source}")
            same, other = ((WORK / f"{form}-of-{source}" / "model.safetensors").read_bytes() for source in ("student", "packed"))
            self.assertTrue(same == other, form)
        call(FBI_LLM, "export", "--checkpoint", "packed", "--format", "gguf", "--out", "gguf")
        words = ("--tokens", "data/train-00000.tokens", "--max-windows", 3, "--threads", 1, "--out")
        for model in ("student", "packed"):
            call(FBI_LLM, "eval", "logits", "--model", model, *words, f"{model}.safetensors")
        self.assertEqual((WORK / "student.safetensors").read_bytes(), (WORK / "packed.safetensors").read_bytes())
        call(FBI_LLM, "train", "--config", "config.json", "--run-dir", "pupil", "--set", "teacher.path=packed", "--set", "train.steps=1",
             "--set", 'objective={"next_token": 0, "distill": 1}')

    def test_an_altered_packed_export_is_no_model_of_any_verb(self):
        file = copy_of_packed("altered-bits") / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for words in (("eval", "logits", "--tokens", "data/train-00000.tokens", "--out", "none", "--model"), ("export", "--out", "none", "--checkpoint")):
            self.assertIn("has been altered", call(FBI_LLM, *words, "altered-bits", code=3))

    def test_a_packed_export_where_latent_weights_are_needed(self):
        run, data = ("train", "--config", "config.json", "--run-dir", "none", "--dry-run", "--set"), ("--tokens", "data/train-00000.tokens")
        for words in (("export", "--checkpoint", "packed", "--format", "native", "--out", "none"),
                      ("import", "--from", "packed", "--out", "none"), (*run, "train.init_from=packed")):
            message = call(FBI_LLM, *words, code=2)
            self.assertIn("packed is a packed export", message)
            self.assertIn("give the run, its checkpoint, or a native export", message)
        self.assertFalse((WORK / "none").exists())
        for words in (("generate", "--prompt", "a"), ("eval", "perplexity", *data), ("eval", "choice", "--tasks", "none")):
            self.assertIn("--dtype is for other models, and packed is a packed export",
                          call(FBI_LLM, *words, "--model", "packed", "--dtype", "fp16", code=2))

    def test_models(self):
        self.refuse(3, "generate", "--model", "nowhere", "--prompt", "a", says=["nowhere"])
        call(FBI_LLM, "export", "--checkpoint", "student", "--format", "hf", "--out", "hf")
        self.refuse(3, "generate", "--model", "hf", "--prompt", "a", says=["binarize", "--format packed"])
        broken = copy_of_packed("broken")
        file = broken / "model.safetensors"
        data = file.read_bytes()
        for remove_checksums in (False, True):  # noticed with them, and in exports that have none
            if remove_checksums:
                (broken / "checksums.json").unlink()
            file.write_bytes(data[:-1])
            self.refuse(3, "generate", "--model", "broken", "--prompt", "a", says=["model.safetensors"])
        file.write_bytes(data.replace(b"layers.1.mlp.up_proj.weight_bits", b"layers.1.mlp.up_proj.weight_bytz"))
        self.refuse(3, "generate", "--model", "broken", "--prompt", "a",
                    says=["missing: model.layers.1.mlp.up_proj.weight_bits [80, 6]", "weight_bytz"])
        file.write_bytes(data)
        for name in ("tokenizer.model", "tokenizer.json"):
            (broken / name).unlink()
        self.refuse(3, "generate", "--model", "broken", "--prompt", "a", says=["--tokenizer"])

    def test_a_tokenizer_of_another_vocabulary(self):
        other = REPOSITORY / "tests/text/byte_bpe/llama3/tokenizer.json"
        for words in (("generate", "--prompt", "a"), ("serve", "--port", 0), ("perplexity", "--text", "stories.txt")):
            self.refuse(3, *words, "--model", "packed", "--tokenizer", other,
                        says=[str(other), "423 pieces", "packed only 320", "another model's tokenizer"])

    def test_altered_models(self):
        """Values that could be a model's: only the checksums know better."""
        altered = copy_of_packed("altered")
        data = (altered / "model.safetensors").read_bytes()
        tensors = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        signs = 8 + int.from_bytes(data[:8], "little") + tensors["model.layers.0.self_attn.q_proj.weight_bits"]["data_offsets"][0]
        last = len(data) - 1  # of the head
        self.assertEqual(list(tensors)[-1], "lm_head.weight")
        for name, at in (("model.safetensors", signs), ("model.safetensors", last), ("config.json", 5), ("tokenizer.model", 900)):
            for program in (FBI_RUN, FBI_LLM):
                whole = (altered / name).read_bytes()
                (altered / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
                message = call(program, "generate", "--model", "altered", "--prompt", "a", code=3)
                self.assertRegex(message, f"altered/{name} has been altered: expected XXH3 .*; export the model again, .* "
                                          "delete altered/checksums.json")
                (altered / name).write_bytes(whole)
        (altered / "tokenizer.model").rename(altered / "another.model")
        names = (altered / "tokenizer_config.json").read_text()
        (altered / "tokenizer_config.json").write_text(names.replace("</s>", "<s>"))
        self.assertIn("altered/tokenizer_config.json: expected",
                      call(FBI_RUN, "generate", "--model", "altered", "--prompt", "a", code=3))
        (altered / "tokenizer.model").write_bytes(b"altered")
        words = ("generate", "--prompt", PROMPT, "--temperature", 0, "--max-new-tokens", 5, "--threads", 1)
        self.assertEqual(call(FBI_RUN, *words, "--model", "altered", "--tokenizer", "tokenizer.model"),
                         call(FBI_RUN, *words, "--model", "packed"))

    def test_an_altered_native_model(self):
        call(FBI_LLM, "export", "--checkpoint", "student", "--format", "native", "--out", "native-altered")
        file = WORK / "native-altered" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 0x80  # a sign
        file.write_bytes(data)
        self.refuse(3, "generate", "--model", "native-altered", "--prompt", "a", says=["model.safetensors has been altered"])

    def test_export_refuses_what_has_no_signs(self):
        call(FBI_LLM, "export", "--checkpoint", "student", "--format", "hf", "--out", "dense")
        message = call(FBI_LLM, "export", "--checkpoint", "dense", "--format", "packed", "--out", "no", code=2)
        self.assertIn("not binarized", message)
        self.assertFalse((WORK / "no").exists())


if __name__ == "__main__":
    FBI_LLM, FBI_RUN = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
