"""fbi-llm against Hugging Face transformers: foreign models in, our exports out.

Usage: transformers_test.py PATH-OF-FBI-LLM [unittest arguments].  Starts itself anew with the interpreter of FBI_TEST_PYTHON, or
of .deps/python-tests, which scripts/deps.sh --python-tests makes; without one it exits with 77, which ctest counts as skipped."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


if __name__ == "__main__":
    import interpreter

    interpreter.use_interpreter_with_transformers()
    os.environ["HF_HUB_OFFLINE"] = "1"

import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

sys.path.insert(0, str(REPOSITORY / "tests/text/byte_bpe"))
import make as make_byte_bpe  # noqa: E402

PROGRAM = None
# fp32 on both sides: only the order of sums differs.
TOLERANCE = 1e-4
VOCAB, WINDOWS, LENGTH = 211, 3, 48


class InFolder(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="fbi-python-test-")
        cls.folder = pathlib.Path(cls.temporary.name)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def run_program(cls, *words):
        done = subprocess.run([PROGRAM, *map(str, words)], cwd=cls.folder, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise AssertionError(f"fbi-llm {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def our_logits(self, model, ids, *words):
        lines = "".join(json.dumps({"token_ids": row}) + "\n" for row in ids.tolist())
        (self.folder / "windows.jsonl").write_text(lines)
        self.run_program("eval", "logits", "--model", model, "--tokens", "windows.jsonl", "--out", "logits.safetensors", *words)
        return load_file(self.folder / "logits.safetensors")["logits"]

    def our_ids(self, texts, tokenizer):
        """What prepare makes of the texts as documents: BOS, ids, EOS, one after the other."""
        (self.folder / "texts.txt").write_bytes("<|next|>".join(texts).encode())
        out = f"texts-{len(list(self.folder.glob('texts-*')))}"
        self.run_program("prepare", "texts.txt", "--tokenizer", tokenizer, "--separator", "<|next|>", "--seq-len", 1, "--out", out)
        data = (self.folder / out / "train-00000.tokens").read_bytes()[128:]
        return list(struct.unpack(f"<{len(data) // 2}H", data))

    def check_logits(self, ours, theirs):
        self.assertEqual(ours.shape, theirs.shape)
        self.assertGreater(theirs.std().item(), 0.1)  # otherwise the comparison says nothing
        self.assertLessEqual((ours - theirs).abs().max().item(), TOLERANCE)


def random_llama(**changes):
    torch.manual_seed(3)
    config = transformers.LlamaConfig(**{
        **dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
               max_position_embeddings=64, initializer_range=0.15, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2), **changes})
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)  # norms of 1 would hide a swapped one
    return model


def write_tied_model(folder, **changes):
    """A native model with tied scales and no shifts; its tensors by published name."""
    model = random_llama(**dict(hidden_size=128, intermediate_size=256, head_dim=32, vocab_size=320, **changes))
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(4)
    for key in [key for key in tensors if key.endswith("_proj.weight")]:
        scale = key.replace(".weight", ".wscale")
        tensors[scale] = torch.empty(1, tensors[key].shape[1]).uniform_(0.05, 0.15)
        for member, owner in (("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
            if member in key:
                tensors[scale] = tensors[scale.replace(member, owner)].clone()
    model.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "binarize": "column", "tie_scales": True, "shift": False}))
    return tensors


class TiedScales(InFolder):
    def test_exports(self):
        """Each export compares itself with the model before it gets its name; then they are compared with each other."""
        tensors = write_tied_model(self.folder / "tied", num_key_value_heads=2)
        for kind, *words in (("native",), ("packed", "--dtype", "fp32"), ("hf", "--dtype", "fp32")):
            self.run_program("export", "--checkpoint", "tied", "--format", kind, *words, "--out", kind)
        self.run_program("import", "--from", "native", "--out", "again")
        for name in ("native", "again"):
            found = load_file(self.folder / name / "model.safetensors")
            self.assertEqual(found.keys(), tensors.keys())
            self.assertTrue(all(torch.equal(found[key], tensors[key]) for key in tensors))
        ids = torch.randint(0, 320, (WINDOWS, LENGTH))
        theirs = transformers.LlamaForCausalLM.from_pretrained(self.folder / "hf", dtype=torch.float32).eval()
        with torch.no_grad():
            self.check_logits(self.our_logits("again", ids), theirs(ids).logits)
        # Sign bits are no weights of theirs: a model that loaded would be a random one.
        with self.assertRaisesRegex(ValueError, "fbi_llama"):
            transformers.AutoModelForCausalLM.from_pretrained(self.folder / "packed")

    def test_from_training_to_one_bit(self):
        (self.folder / "text.txt").write_text("Once upon a time there was a fox, and it ran.\n" * 60)
        self.run_program("tokenizer", "train", "--input", "text.txt", "--vocab-size", 290, "--out", "tokenizer.model")
        self.run_program("prepare", "--input", "text.txt", "--tokenizer", "tokenizer.model", "--seq-len", 16, "--out", "data")
        (self.folder / "run.json").write_text(json.dumps({
            "model": {"vocab_size": 290, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "max_position_embeddings": 32, "tie_scales": True, "shift": False},
            "data": {"paths": ["data"]}, "objective": {"next_token": 1, "distill": 0}, "optimizer": {"lr": 3e-3, "warmup_steps": 0},
            "train": {"seq_len": 16, "global_batch": 4, "micro_batch": 4, "steps": 12, "threads": 1}}))
        self.run_program("train", "--config", "run.json", "--run-dir", "run")
        losses = [json.loads(line)["loss"] for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        self.assertLess(losses[-1], losses[0] - 0.5)
        for kind in ("hf", "packed", "gguf-q1_0"):
            report = self.run_program("export", "--checkpoint", "run", "--format", kind, "--out", f"run-{kind}")
        ids = [transformers.AutoTokenizer.from_pretrained(self.folder / f"run-{kind}")("there was a fox")["input_ids"] for kind in ("hf", "packed")]
        self.assertEqual(*ids)
        self.assertRegex(report, r"inputs of Q1_0 matrices to int8, 32 at a time: KL \S+ nats per token")
        self.assertTrue((self.folder / "run-gguf-q1_0" / "model.gguf").exists())
        with self.assertRaisesRegex(AssertionError, "exit code 2"):
            self.run_program("export", "--checkpoint", "run", "--format", "gguf-q1_0", "--dtype", "fp32", "--out", "no")

    def test_different_scales_are_refused(self):
        tensors = write_tied_model(self.folder / "differ")
        tensors["model.layers.1.mlp.up_proj.wscale"][0, 5] += 1e-6
        save_file(tensors, self.folder / "differ" / "model.safetensors", metadata={"format": "pt"})
        for words in (("export", "--checkpoint", "differ"), ("import", "--from", "differ")):
            with self.assertRaisesRegex(AssertionError, "exit code 3.*(.|\n)*layers.1.mlp.up_proj.wscale.*differs from"):
                self.run_program(*words, "--out", "refused")


class ForeignModels(InFolder):
    CONFIGURATIONS = {
        "plain": {},
        "grouped": dict(num_key_value_heads=2),
        "one-key-value-head": dict(num_key_value_heads=1),
        "tied": dict(tie_word_embeddings=True),
        "grouped-tied": dict(num_key_value_heads=2, tie_word_embeddings=True),
        "head-dim": dict(head_dim=24, num_key_value_heads=2),
        "theta": dict(rope_theta=500000.0, rms_norm_eps=1e-6),
        "linear-rope": dict(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        # Windows are longer than the original context, so that all three bands of frequencies take part.
        "llama3-rope": dict(rope_theta=500.0, rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
    }

    def test_logits(self):
        for name, changes in self.CONFIGURATIONS.items():
            with self.subTest(name):
                model = random_llama(**changes)
                model.save_pretrained(self.folder / name)
                ids = torch.randint(0, VOCAB, (WINDOWS, LENGTH))
                with torch.no_grad():
                    theirs = model(ids).logits
                self.check_logits(self.our_logits(name, ids), theirs)

    def test_shards_and_half_precision(self):
        for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
            with self.subTest(name):
                model = random_llama().to(dtype)
                model.save_pretrained(self.folder / name, max_shard_size="100KB")
                self.assertTrue((self.folder / name / "model.safetensors.index.json").exists())
                ids = torch.randint(0, VOCAB, (WINDOWS, LENGTH))
                model = transformers.LlamaForCausalLM.from_pretrained(self.folder / name, dtype=torch.float32).eval()
                with torch.no_grad():
                    theirs = model(ids).logits
                self.check_logits(self.our_logits(name, ids), theirs)


class TorchFiles(InFolder):
    """Models saved with torch.save."""

    def saved_as_bin(self, name, model, **options):
        model.save_pretrained(self.folder / name, safe_serialization=False, **options)
        self.assertFalse(list((self.folder / name).glob("*.safetensors")))

    def inspect(self, path):
        return {line["name"]: line for line in json.loads(self.run_program("inspect", "--json", path))}

    def test_models_of_transformers(self):
        for name, dtype, options in (("one", torch.float32, {}), ("shards", torch.bfloat16, {"max_shard_size": "100KB"})):
            with self.subTest(name):
                self.saved_as_bin(name, random_llama(num_key_value_heads=2).to(dtype), **options)
                self.assertEqual((self.folder / name / "pytorch_model.bin.index.json").exists(), bool(options))
                model = transformers.LlamaForCausalLM.from_pretrained(self.folder / name, dtype=torch.float32).eval()
                ids = torch.randint(0, VOCAB, (WINDOWS, LENGTH))
                with torch.no_grad():
                    theirs = model(ids).logits
                self.check_logits(self.our_logits(name, ids), theirs)
                self.run_program("import", "--from", name, "--out", f"{name}-imported")
                self.assertEqual(self.inspect(name), self.inspect(f"{name}-imported"))

    def test_tied_head(self):
        """Its storage is in the file once, under two names."""
        model = random_llama(tie_word_embeddings=True)
        self.saved_as_bin("tied", model)
        torch.save(model.state_dict(), self.folder / "tied" / "pytorch_model.bin")
        ids = torch.randint(0, VOCAB, (WINDOWS, LENGTH))
        with torch.no_grad():
            self.check_logits(self.our_logits("tied", ids), model(ids).logits)

    def test_published_checkpoint(self):
        """Latent weights with scales and shifts per input column, as the published code saves them."""
        folded = random_llama()
        state = {}
        for name, value in folded.state_dict().items():
            state[name] = value.clone()
            if not name.endswith("_proj.weight"):
                continue
            scale, shift = torch.rand(1, value.shape[1]) * 0.1, torch.randn(1, value.shape[1]) * 0.01
            state[name.replace("weight", "wscale")], state[name.replace("weight", "wbias")] = scale, shift
            with torch.no_grad():
                value.copy_(torch.sign(value) * scale + shift)
        for layer in range(3):
            state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(8)
        folded.save_pretrained(self.folder / "published")
        (self.folder / "published" / "model.safetensors").unlink()
        torch.save(state, self.folder / "published" / "pytorch_model.bin")
        ids = torch.randint(0, VOCAB, (WINDOWS, LENGTH))
        with torch.no_grad():
            theirs = folded(ids).logits
        self.check_logits(self.our_logits("published", ids), theirs)
        self.assertIn("binarized model (column)", self.run_program("import", "--from", "published", "--out", "imported"))
        self.check_logits(self.our_logits("imported", ids), theirs)
        self.train_from("published", "column")

    def train_from(self, folder, binarize):
        """A step of training that starts there, with the folder as its teacher too."""
        (self.folder / "data.jsonl").write_text("".join(json.dumps({"token_ids": [i % VOCAB] * 17}) + "\n" for i in range(8)))
        config = json.loads((self.folder / folder / "config.json").read_text())
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "max_position_embeddings", "rms_norm_eps")
        (self.folder / "config.json").write_text(json.dumps({
            "model": {**{name: config[name] for name in names}, "binarize": binarize},
            "teacher": {"path": folder}, "data": {"format": "amber", "paths": ["data.jsonl"]},
            "optimizer": {"warmup_steps": 0}, "train": {"seq_len": 16, "global_batch": 4, "micro_batch": 4, "steps": 1, "device": "cpu", "init_from": folder},
        }))
        self.run_program("train", "--config", "config.json", "--run-dir", f"run-{folder}")
        metrics = json.loads((self.folder / f"run-{folder}" / "metrics.jsonl").read_text().splitlines()[0])
        self.assertGreater(metrics["grad_norm"], 0)
        return metrics

    def test_full_precision_start(self):
        """Scales and shifts are made from the weights."""
        self.saved_as_bin("start", random_llama())
        self.assertGreater(self.train_from("start", "column")["loss"], 0)


class OurExport(InFolder):
    """A student trained by fbi-llm, as a user of transformers finds it."""

    TEXTS = ["Once upon a time there was a fox.", "a", "  two spaces,  and two more", "1234567890 12,5", "line\nbreak and\ttab",
             "Ünïcödé – “quotes” 日本語 🦊", "don't; it's [x] {y} <z> | ~ \\ \"q\"", "trailing space ", "ends.\u00a0No break"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        subprocess.run([sys.executable, REPOSITORY / "scripts/make_stories.py", "--out", cls.folder / "stories.txt", "--bytes", "60000"],
                       check=True, capture_output=True)
        config = {
            "model": {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.1},
            "data": {"paths": ["data"]},
            "objective": {"next_token": 1, "distill": 0},
            "optimizer": {"lr": 1e-2, "warmup_steps": 2},
            "train": {"seq_len": 16, "global_batch": 8, "micro_batch": 8, "steps": 20, "device": "cpu"},
        }
        (cls.folder / "config.json").write_text(json.dumps(config))
        cls.run_program("tokenizer", "train", "--input", "stories.txt", "--vocab-size", 320, "--out", "tokenizer.model")
        cls.run_program("prepare", "stories.txt", "--tokenizer", "tokenizer.model", "--seq-len", 16, "--out", "data")
        cls.run_program("train", "--config", "config.json", "--run-dir", "student")
        cls.run_program("export", "--checkpoint", "student", "--format", "hf", "--out", "hf")

    def test_loads_with_the_same_logits(self):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "hf", dtype=torch.float32, output_loading_info=True)
        self.assertIsInstance(model, transformers.LlamaForCausalLM)
        self.assertFalse(report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"], report)
        ids = torch.randint(0, 320, (WINDOWS, LENGTH))
        with torch.no_grad():
            theirs = model.eval()(ids).logits
        self.check_logits(self.our_logits("hf", ids), theirs)
        self.check_logits(self.our_logits("student", ids, "--dtype", "fp16"), theirs)

    def test_tokenizers_give_our_ids(self):
        ours = self.our_ids(self.TEXTS, "tokenizer.model")
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "hf")
        theirs = [i for text in self.TEXTS for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
        self.assertEqual(ours, theirs[:len(ours)])
        self.assertLessEqual(len(theirs) - len(ours), 1)  # samples of two ids: an odd one out is dropped
        self.assertEqual((tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id), (0, 1, 2))

    def test_generates_what_we_generate(self):
        prompt, count = "Once upon a time", 20
        ours = json.loads(self.run_program("generate", "--model", "hf", "--prompt", prompt, "--max-new-tokens", count, "--temperature", "0",
                                           "--json"))["ids"]
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "hf", dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "hf")
        ids = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(**ids, max_new_tokens=count, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist()
        self.assertEqual(ours, theirs[:len(ours)])


class ByteLevelTokenizers(InFolder):
    """tokenizer.json of Llama-3, GPT-2 and SmolLM give the ids of the `tokenizers` library."""

    def check_ids(self, kind, texts):
        texts = [f"[{text}]" for text in texts]  # prepare drops line breaks around documents
        sample = REPOSITORY / "tests/text/byte_bpe" / kind
        library = tokenizers.Tokenizer.from_file(str(sample / "tokenizer.json"))
        bos, eos = (library.token_to_id(name) for name in make_byte_bpe.SPECIAL[:2])
        theirs = [i for found in library.encode_batch(texts, add_special_tokens=False) for i in [bos, *found.ids, eos]]
        ours = self.our_ids(texts, sample)
        self.assertLessEqual(len(theirs) - len(ours), 1)
        first = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)
        self.assertIsNone(first)

    def test_random_texts(self):
        for kind in ("llama3", "gpt2", "smollm"):
            with self.subTest(kind):
                self.check_ids(kind, list(make_byte_bpe.texts(7, 2000)))

    def test_every_character(self):
        every = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
        self.check_ids("llama3", ["a".join(every[begin:begin + 2048]) for begin in range(0, len(every), 2048)])


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    torch.set_num_threads(1)
    unittest.main()
