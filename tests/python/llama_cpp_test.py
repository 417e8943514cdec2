"""GGUF exports in llama.cpp: the same logits, ids and greedy text; the same weights at one bit.

Usage: llama_cpp_test.py PATH-OF-FBI-LLM [unittest arguments].  Uses the interpreter of transformers_test.py and llama-cpp-python in
$FBI_LLAMA_CPP or .deps/llama-cpp (`pip install --no-deps --target .deps/llama-cpp llama-cpp-python==0.3.36 diskcache` with that interpreter
compiles it in about ten minutes); without it it exits with 77: skipped."""
import ctypes
import json
import os
import pathlib
import re
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
import gguf_file  # noqa: E402
import transformers_test  # noqa: E402

F32 = 0  # GGML_TYPE_F32, of the key-value cache
TEXTS = ["Once upon a time there was a fox.", "a", "  two spaces,  and two more", "1234567890 12,5", "line\nbreak and\ttab",
         "Ünïcödé – “quotes” 日本語 🦊", "don't; it's [x] {y} <z> | ~ \\ \"q\"", "trailing space "]


def opened(path):
    return llama_cpp.Llama(model_path=str(path), n_ctx=64, logits_all=True, n_threads=1, n_threads_batch=1, flash_attn=False, type_k=F32,
                           type_v=F32, verbose=False)


def logits(model, ids):
    model.reset()
    model.eval(ids.tolist())
    return torch.from_numpy(model.scores[:len(ids)].copy())


def mean_kl(p, q):
    """Nats per token, from p to q."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def as_f32(path):
    """llama-quantize back to F32."""
    out = path.with_name("f32.gguf")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize, parameters.nthread = 0, True, 1
    parameters.output_tensor_type = parameters.token_embedding_type = F32
    assert llama_cpp.llama_model_quantize(str(path).encode(), str(out).encode(), ctypes.byref(parameters)) == 0
    return out


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
        return opened(self.folder / f"{name}-{dtype}" / "model.gguf")

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
        for kind in ("llama3", "gpt2", "smollm"):
            with self.subTest(kind):
                tokenizer = REPOSITORY / "tests/text/byte_bpe" / kind
                self.check_ids(self.exported(f"byte-level-{kind}", model, "fp16", "--tokenizer", str(tokenizer)), tokenizer)

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


class OneBit(transformers_test.InFolder):
    """gguf-q1_0 of models with tied scales and no shifts."""

    def folded(self, tensors, heads, groups):
        """What the file must hold after llama-quantize, by GGUF name: an own account of docs/formats.md."""
        def half(x):
            return x.half().float()

        out = {"token_embd": half(tensors["model.embed_tokens.weight"]), "output_norm": tensors["model.norm.weight"]}
        if not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]):
            out["output"] = half(tensors["lm_head.weight"])
        for layer in range(3):
            def of(name):
                return tensors[f"model.layers.{layer}.{name}"]

            def sign(name):
                return torch.where(of(name + ".weight") >= 0, 1.0, -1.0)

            def permuted(x, count):
                return x.view(count, 2, x.shape[0] // count // 2, -1).transpose(1, 2).reshape(x.shape)

            output_scale = of("self_attn.o_proj.wscale").view(groups, heads // groups, -1)
            folds = bool((output_scale == output_scale[:, :1]).all())
            row_scale = half(output_scale[:, 0].reshape(-1, 1)) if folds else 1.0
            column_scale = 1.0 if folds else half(of("self_attn.o_proj.wscale"))
            block = {"attn_norm": of("input_layernorm.weight") * of("self_attn.q_proj.wscale")[0],
                     "attn_q": permuted(sign("self_attn.q_proj"), heads), "attn_k": permuted(sign("self_attn.k_proj"), groups),
                     "attn_v": sign("self_attn.v_proj") * row_scale, "attn_output": sign("self_attn.o_proj") * column_scale,
                     "ffn_norm": of("post_attention_layernorm.weight") * of("mlp.gate_proj.wscale")[0],
                     "ffn_gate": sign("mlp.gate_proj"), "ffn_up": sign("mlp.up_proj") * half(of("mlp.down_proj.wscale")).T,
                     "ffn_down": sign("mlp.down_proj")}
            out.update({f"blk.{layer}.{key}": value for key, value in block.items()})
        return {key + ".weight": value for key, value in out.items()}

    def test_llama_cpp_has_the_same_weights(self):
        for name, groups, changes in (("heads", 4, {}), ("grouped", 2, {}), ("tied-head", 4, dict(tie_word_embeddings=True))):
            with self.subTest(name):
                tensors = transformers_test.write_tied_model(self.folder / name, num_key_value_heads=groups, **changes)
                report = self.run_program("export", "--checkpoint", name, "--format", "gguf-q1_0", "--out", f"{name}-bits")
                self.assertEqual("attn_output of 3 of 3 layers is F16" in report, groups == 2, report)
                path = self.folder / f"{name}-bits" / "model.gguf"
                f32 = as_f32(path)
                found, expected = gguf_file.read_f32(f32), self.folded(tensors, 4, groups)
                self.assertEqual(set(found), set(expected))
                for key, value in expected.items():
                    self.assertTrue(torch.equal(found[key], value.contiguous()), key)
                self.check_arithmetic(name, path, f32, report)

    def check_arithmetic(self, name, path, f32, report):
        ids = torch.randint(0, 320, (48,))
        trained = self.our_logits(name, ids[None])[0]
        same_weights, bits = logits(opened(f32), ids), logits(opened(path), ids)
        self.assertGreater(trained.std().item(), 0.1)
        rounding = mean_kl(trained, same_weights)
        int8 = mean_kl(same_weights, bits)
        ours = float(re.search(r"int8, 32 at a time: KL (\S+) nats", report)[1])
        print(f"{name}: KL of fp16 scales {rounding:.1e}, of llama.cpp's int8 activations {int8:.1e}; the export's report says {ours:.1e}")
        self.assertLess(rounding, 1e-4)  # relative 2^-11 in two of seven scales, embedding and head
        self.assertLess(int8, 0.1)
        # Other windows, few tokens: the same size.
        self.assertLess(max(int8, ours) / min(int8, ours), 3)


if __name__ == "__main__":
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    transformers_test.PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    torch.set_num_threads(1)
    unittest.main()
