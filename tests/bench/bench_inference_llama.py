#!/usr/bin/env python3
"""llama.cpp's half of bench_inference.py, which starts it: writes a model of random weights, rounds it to a type of
llama.cpp's, or measures one. Runs on a Python with numpy; llama_cpp is in the folder --site.

  bench_inference_llama.py --site DIR --write SHAPE-JSON --out FILE       GGUF, matrices in F16
  bench_inference_llama.py --site DIR --quantize FTYPE [--pure] --model FILE --out FILE
  bench_inference_llama.py --site DIR --measure --model FILE --prompt-tokens N --new-tokens N --texts N --threads N
"""
import argparse
import ctypes
import json
import random
import struct
import sys
import time

import numpy

# Ways to run a model; behind a long prompt plain attention decodes twice as fast, a prompt is often faster by the other one,
# and Q1_0 takes it faster in short passes (n_ubatch; 512 is the default of llama.cpp).
ATTENTIONS = {"plain attention": "DISABLED", "flash attention": "ENABLED"}
TOKENS_PER_PASS = (64, 512)

ALIGNMENT = 32
F32, F16 = 0, 1
U32, FLOAT, STRING = 4, 6, 8


def llama_tensors(shape):
    """[(name, dimensions with the fastest first)] in the order of the file; one dimension: F32, two: F16."""
    hidden, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    heads = shape["num_attention_heads"]
    keys = hidden // heads * shape.get("num_key_value_heads", heads)
    yield "token_embd.weight", (hidden, vocab)
    for layer in range(shape["num_hidden_layers"]):
        for name, dimensions in (("attn_norm", (hidden,)), ("attn_q", (hidden, hidden)), ("attn_k", (hidden, keys)),
                                 ("attn_v", (hidden, keys)), ("attn_output", (hidden, hidden)), ("ffn_norm", (hidden,)),
                                 ("ffn_gate", (hidden, inner)), ("ffn_up", (hidden, inner)), ("ffn_down", (inner, hidden))):
            yield f"blk.{layer}.{name}.weight", dimensions
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (hidden, vocab)


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def metadata(shape):
    heads = shape["num_attention_heads"]
    entries = [("general.architecture", STRING, "llama"), ("general.file_type", U32, 1), ("tokenizer.ggml.model", STRING, "no_vocab"),
               ("llama.vocab_size", U32, shape["vocab_size"]), ("llama.context_length", U32, shape["max_position_embeddings"]),
               ("llama.embedding_length", U32, shape["hidden_size"]), ("llama.feed_forward_length", U32, shape["intermediate_size"]),
               ("llama.block_count", U32, shape["num_hidden_layers"]), ("llama.attention.head_count", U32, heads),
               ("llama.attention.head_count_kv", U32, shape.get("num_key_value_heads", heads)),
               ("llama.rope.dimension_count", U32, shape["hidden_size"] // heads),
               ("llama.rope.freq_base", FLOAT, shape.get("rope_theta", 10000.0)),
               ("llama.attention.layer_norm_rms_epsilon", FLOAT, shape.get("rms_norm_eps", 1e-5))]
    write = {U32: lambda v: struct.pack("<I", v), FLOAT: lambda v: struct.pack("<f", v), STRING: string}
    return len(entries), b"".join(string(key) + struct.pack("<I", kind) + write[kind](value) for key, kind, value in entries)


def padded(size):
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write_model(shape, path):
    """Speed does not depend on the values, so a few million random ones serve all matrices."""
    pool = numpy.random.default_rng(1).normal(0, 0.02, 1 << 22).astype(numpy.float16)
    tensors = list(llama_tensors(shape))
    count, keys = metadata(shape)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + keys
    offset = 0
    for name, dimensions in tensors:
        kind = F16 if len(dimensions) == 2 else F32
        header += string(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        header += struct.pack("<IQ", kind, offset)
        offset += padded(int(numpy.prod(dimensions)) * (2 if kind == F16 else 4))
    with open(path, "wb") as file:
        file.write(header.ljust(padded(len(header)), b"\0"))
        for _, dimensions in tensors:
            values = int(numpy.prod(dimensions))
            data = numpy.resize(pool, values) if len(dimensions) == 2 else numpy.ones(values, numpy.float32)
            file.write(data.tobytes().ljust(padded(data.nbytes), b"\0"))


def silence(llama_cpp):
    """llama.cpp tells every step of loading; errors come as return values."""
    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    return callback


def quantize(llama_cpp, model, out, ftype, pure):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{ftype}")
    parameters.pure = pure
    if llama_cpp.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(parameters)):
        sys.exit(f"llama.cpp cannot round {model} to {ftype}")


def load(llama_cpp, path):
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    # A mapped file has small pages; memory of its own has huge ones where malloc is told so, as our weights have.
    parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    return llama_cpp.llama_model_load_from_file(path.encode(), parameters) or sys.exit(f"llama.cpp cannot load {path}")


class Context:
    """Texts of a model that are decoded together: keys and values in F16."""

    def __init__(self, llama_cpp, model, attention, tokens_per_pass, options):
        self.library = llama_cpp
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = options.texts * (options.prompt_tokens + options.new_tokens)
        parameters.n_seq_max = options.texts
        parameters.n_batch = options.prompt_tokens
        parameters.n_ubatch = tokens_per_pass
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.flash_attn_type = getattr(llama_cpp, f"LLAMA_FLASH_ATTN_TYPE_{ATTENTIONS[attention]}")
        self.context = llama_cpp.llama_init_from_model(model, parameters)
        if not self.context:
            sys.exit(f"llama.cpp cannot run {options.model} with {attention}")

    def feed(self, parts):
        """Seconds that [(text, position, ids)] take together; logits behind each. The calls from Python are some microseconds."""
        rows = [(text, position + k, id, k + 1 == len(ids)) for text, position, ids in parts for k, id in enumerate(ids)]
        batch = self.library.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for row, (text, position, id, last) in enumerate(rows):
            batch.token[row], batch.pos[row], batch.logits[row] = id, position, last
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, text
        start = time.perf_counter()
        if self.library.llama_decode(self.context, batch):
            sys.exit("llama.cpp cannot decode")
        self.library.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        self.library.llama_batch_free(batch)
        return seconds

    def clear(self):
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)


def measure(llama_cpp, options):
    """Tokens per second of prompt and decoding as `fbi-run bench` measures them, {way: rate} of each."""
    model = load(llama_cpp, options.model)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    numbers = random.Random(2024)
    prompt = [numbers.randrange(vocab) for _ in range(options.prompt_tokens)]
    texts = range(options.texts)
    prompts, decodes = {}, {}
    for attention in ATTENTIONS:
        for tokens_per_pass in sorted({min(tokens, len(prompt)) for tokens in TOKENS_PER_PASS}):
            context = Context(llama_cpp, model, attention, tokens_per_pass, options)
            context.feed([(0, 0, prompt)])  # touches weights and workspace for the first time
            context.clear()
            seconds = sum(context.feed([(text, 0, prompt)]) for text in texts)
            prompts[f"{attention}, passes of {tokens_per_pass}"] = len(texts) * len(prompt) / seconds
        # A token of each text is a pass in any case.
        steps = sorted(context.feed([(text, len(prompt) + k, [numbers.randrange(vocab)]) for text in texts])
                       for k in range(options.new_tokens))
        decodes[attention] = len(texts) / steps[len(steps) // 2]
    return {"prompt": prompts, "decode": decodes, "model_bytes": llama_cpp.llama_model_size(model)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", required=True)
    parser.add_argument("--write", type=json.loads, metavar="SHAPE-JSON")
    parser.add_argument("--quantize", metavar="FTYPE")
    parser.add_argument("--pure", action="store_true", help="the head and the embedding too")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--out")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.write:
        return write_model(options.write, options.out)
    sys.path.insert(1, options.site)
    import llama_cpp

    keep = silence(llama_cpp)  # noqa: F841 (the library calls it)
    if options.quantize:
        quantize(llama_cpp, options.model, options.out, options.quantize, options.pure)
    elif options.measure:
        print(json.dumps(measure(llama_cpp, options)))


if __name__ == "__main__":
    main()
