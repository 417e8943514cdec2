"""GGUF exports in llama.cpp: the same logits, ids and greedy text.

Usage: llama_cpp_test.py PATH-OF-FBI-LLM [unittest arguments].  Uses the interpreter of transformers_test.py and llama-cpp-python in
$FBI_LLAMA_CPP or .deps/llama-cpp (`pip install --no-deps --target .deps/llama-cpp llama-cpp-python==0.3.36 diskcache` with that interpreter
compiles it in about ten minutes); without it it exits with 77: skipped."""
import json
import os
import pathlib
import shutil
import sys
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LLAMA_CPP = pathlib.Path(os.environ.get("FBI_LLAMA_CPP") or REPOSITORY / ".deps/llama-cpp")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

if __name__ == "__main__":
    if not (LLAMA_CPP / "llama_cpp").exists():
        print(f"skipped: there is no llama_cpp in {LLAMA_CPP}; see the top of {__file__}")
        sys.exit(77)
    import interpreter

    interpreter.use_interpreter_with_transformers()
    os.environ["HF_HUB_OFFLINE"] = "1"

sys.path.insert(1, str(LLAMA_CPP))

import llama_cpp  # noqa: E402
import torch  # noqa: E402
import transformers_test  # noqa: E402

F32 = 0  # GGML_TYPE_F32, of the key-value cache
TEXTS = ["Once upon a time there was a fox.", "a", "  two spaces,  and two more", "1234567890 12,5", "line\nbreak and\ttab",
         "Ünïcödé – “quotes” 日本語 🦊", "don't; it's [x] {y} <z> | ~ \\ \"q\"", "trailing space "]


class Exports(transformers_test.InFolder):
    CONFIGURATIONS = {
        "plain": {},
        "grouped": dict(num_key_value_heads=2),
        "tied": dict(tie_word_embeddings=True),
        "head-dim": dict(head_dim=24, num_key_value_heads=2),
        "theta": dict(rope_theta=500000.0, rms_norm_eps=1e-6),
        "linear-rope": dict(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        "llama3-rope": transformers_test.ForeignModels.CONFIGURATIONS["llama3-rope"],
    }

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.folder / "text.txt").write_text("\n".join(TEXTS * 20) + "\n")
        cls.run_program("tokenizer", "train", "--input", "text.txt", "--vocab-size", 320, "--out", "tokenizer.model")

    def exported(self, name, model, dtype, *words):
        model.save_pretrained(self.folder / name)
        self.run_program("export", "--checkpoint", name, "--format", "gguf", "--dtype", dtype, "--out", f"{name}-{dtype}", *words)
        return llama_cpp.Llama(model_path=str(self.folder / f"{name}-{dtype}" / "model.gguf"), n_ctx=64, logits_all=True, n_threads=1,
                               n_threads_batch=1, flash_attn=False, type_k=F32, type_v=F32, verbose=False)

    def test_logits(self):
        for name, changes in self.CONFIGURATIONS.items():
            with self.subTest(name):
                model = transformers_test.random_llama(vocab_size=331, **changes)  # more rows than the tokenizer has pieces
                theirs = self.exported(name, model, "fp32", "--tokenizer", "tokenizer.model")
                ids = torch.randint(0, 320, (1, 48))
                theirs.eval(ids[0].tolist())
                self.check_logits(self.our_logits(name, ids)[0], torch.from_numpy(theirs.scores[:48].copy()))

    def test_sentencepiece_ids(self):
        model = transformers_test.random_llama(vocab_size=320)
        theirs = self.exported("sentencepiece", model, "fp16", "--tokenizer", "tokenizer.model")
        self.check_ids(theirs, "tokenizer.model")

    def test_byte_level_ids(self):
        model = transformers_test.random_llama(vocab_size=423, bos_token_id=420, eos_token_id=421)
        theirs = self.exported("byte-level", model, "fp16", "--tokenizer", str(REPOSITORY / "tests/text/byte_bpe/llama3"))
        self.check_ids(theirs, REPOSITORY / "tests/text/byte_bpe/llama3")

    def check_ids(self, theirs, tokenizer):
        texts = [f"[{text}]" for text in TEXTS]
        found = [i for text in texts for i in [theirs.token_bos(), *theirs.tokenize(text.encode(), add_bos=False), theirs.token_eos()]]
        ours = self.our_ids(texts, tokenizer)
        self.assertEqual(ours, found[:len(ours)])

    def test_greedy_text_in_half_precision(self):
        model = transformers_test.random_llama(vocab_size=320)
        theirs = self.exported("greedy", model, "fp16", "--tokenizer", "tokenizer.model")
        shutil.copy(self.folder / "tokenizer.model", self.folder / "greedy")
        ours = json.loads(self.run_program("generate", "--model", "greedy", "--dtype", "fp16", "--prompt", "Once upon", "--max-new-tokens",
                                           16, "--temperature", "0", "--json"))["ids"]
        ids = theirs.tokenize(b"Once upon", add_bos=True)
        for expected in ours:
            theirs.reset()
            theirs.eval(ids)
            self.assertEqual(int(theirs.scores[len(ids) - 1].argmax()), expected)
            ids.append(expected)


if __name__ == "__main__":
    transformers_test.PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    torch.set_num_threads(1)
    unittest.main()
