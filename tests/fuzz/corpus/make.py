"""Writes the corpora of the fuzz targets, small sound and broken inputs, beside this file."""
import gzip
import json
import math
import pathlib
import random
import struct
import zipfile

HERE = pathlib.Path(__file__).parent


def write(path, content):
    (HERE / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(header, data=b""):
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data


def tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def padded(data, multiple=32):
    return data + bytes(-len(data) % multiple)


def gguf(keys, tensors, offsets=None):
    """`tensors`: name, extents with the fastest first, type, bytes."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    next_offset = 0
    for n, (name, extents, kind, data) in enumerate(tensors):
        offset = next_offset if offsets is None else offsets[n]
        out += text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
        next_offset += len(padded(data))
    return padded(out) + b"".join(padded(data) for _, _, _, data in tensors)


def zstd(content):
    """A frame of one segment and one block, not compressed; at most 255 bytes."""
    return struct.pack("<IBB", 0xFD2FB528, 0x20, len(content)) + struct.pack("<I", len(content) << 3 | 1)[:3] + content


def tokenizer_json(pieces, merges, **model):
    """Byte-level BPE as of GPT-2: the 256 bytes and `pieces`, then <|begin_of_text|> and <|end_of_text|>."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(byte) if byte in printable else chr(256 + sum(b not in printable for b in range(byte))) for byte in range(256)]
    vocab = {**{character: n for n, character in enumerate(characters)}, **pieces}
    special = [{"id": len(vocab) + n, "content": name, "special": True} for n, name in enumerate(("<|begin_of_text|>", "<|end_of_text|>"))]
    return {"added_tokens": special, "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocab, "merges": merges, **model}}


def packed_model(dtype="F16", native=False, binarize="column", shift=True, tied=False, **config):
    """config.json on a line, then model.safetensors, of one layer; no two sizes are the same."""
    hidden, heads, key_heads, head_dim, feed_forward, vocab = 12, 2, 1, 6, 20, 11
    config = {"model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": feed_forward, "num_hidden_layers": 1,
              "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": head_dim, "max_position_embeddings": 8,
              "rms_norm_eps": 1e-5, "hidden_act": "silu", "binarize": binarize, "shift": shift, "tie_word_embeddings": tied,
              "bos_token_id": 1, "eos_token_id": 2, **config}
    generator, header, data = random.Random(7), {}, bytearray()

    def add(name, kind, shape, content):
        header[name] = tensor(len(data), len(data) + len(content), shape, kind)
        data.extend(content)

    def normal(name, shape, mean=0.0, kind="F32"):
        values = [generator.gauss(mean, 0.1) for _ in range(math.prod(shape))]
        if kind == "BF16":
            content = b"".join(struct.pack("<f", value)[2:] for value in values)
        else:
            content = struct.pack(f"<{len(values)}{'e' if kind == 'F16' else 'f'}", *values)
        add(name, kind, shape, content)

    def linear(name, outputs, inputs):
        if native:
            normal(name + ".weight", [outputs, inputs])
        else:
            rows = b"".join(generator.getrandbits(inputs).to_bytes(-(-inputs // 8), "little") for _ in range(outputs))
            add(name + ".weight_bits", "U8", [outputs, -(-inputs // 8)], rows)
        scales = {"column": [1, inputs], "row": [outputs, 1], "single": []}[binarize]
        normal(name + ".wscale", scales, mean=0.5)
        if shift:
            normal(name + ".wbias", scales)

    layer, queries, keys = "model.layers.0.", heads * head_dim, key_heads * head_dim
    normal("model.embed_tokens.weight", [vocab, hidden], kind=dtype)
    for name in (layer + "input_layernorm", layer + "post_attention_layernorm", "model.norm"):
        normal(name + ".weight", [hidden], mean=1.0)
    for name, outputs, inputs in (("self_attn.q", queries, hidden), ("self_attn.k", keys, hidden), ("self_attn.v", keys, hidden),
                                  ("self_attn.o", hidden, queries), ("mlp.gate", feed_forward, hidden), ("mlp.up", feed_forward, hidden),
                                  ("mlp.down", hidden, feed_forward)):
        linear(f"{layer}{name}_proj", outputs, inputs)
    if not tied:
        normal("lm_head.weight", [vocab, hidden], kind=dtype)
    return json.dumps(config).encode() + b"\n" + safetensors(header, bytes(data))


def main():
    two = {"__metadata__": {"format": "pt"}, "a": tensor(0, 8, [2]), "b": tensor(8, 12, [2, 1], "BF16")}
    write("safetensors/two", safetensors(two, bytes(range(12))))
    write("safetensors/empty", safetensors({}))
    write("packed_model/fp16", packed_model())
    write("packed_model/fp32", packed_model("F32"))
    write("packed_model/native", packed_model("F32", native=True))
    write("packed_model/rows-without-shift", packed_model(binarize="row", shift=False, rope_scaling={"rope_type": "linear", "factor": 2.0}))
    write("packed_model/single-tied", packed_model("BF16", binarize="single", tied=True, rope_theta=500.0))
    write("packed_model/llama3-rope", packed_model(max_position_embeddings=2, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 4}))
    write("safetensors/empty-tensor", safetensors({"a": tensor(0, 0, [0, 4]), "s": tensor(0, 4, [])}, b"1234"))
    write("safetensors/overlap", safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])}, bytes(8)))
    write("safetensors/hole", safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)))
    write("safetensors/overflow", safetensors({"a": tensor(0, 4, [2**62, 4])}, bytes(4)))
    write("safetensors/twice", safetensors('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"1"))
    write("safetensors/deep", safetensors('{"a":' + "[" * 40 + "]" * 40 + "}"))
    write("safetensors/long-header", struct.pack("<Q", 2**63) + b"{}")

    write("tensor_index/sound", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    write("tensor_index/swapped", json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}))
    write("tensor_index/outside", json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    write("tensor_index/absolute", json.dumps({"weight_map": {"a": "/etc/passwd"}}))
    write("tensor_index/itself", json.dumps({"weight_map": {"a": "model.safetensors.index.json"}}))
    write("tensor_index/folder", json.dumps({"weight_map": {"a": "."}}))
    write("tensor_index/numbers", '{"weight_map": {"a": 1}}')

    llama = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": [2, 3]}
    write("model_config/llama", json.dumps(llama))
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}
    write("model_config/rope-scaling", json.dumps({**llama, "rope_scaling": scaling, "head_dim": 24}))
    write("model_config/rope-parameters", json.dumps({**llama, "rope_parameters": {**scaling, "rope_theta": 5e5}}))
    write("model_config/layers", json.dumps({**llama, "num_hidden_layers": 10**9}))
    write("model_config/bias", json.dumps({**llama, "attention_bias": True, "quantization_config": {"bits": 4}}))
    write("model_config/deep", "{" + '"a":{' * 70 + "}" * 70 + "}")

    f32, f16, q1_0 = 0, 1, 41
    keys = [key("u", 4, struct.pack("<I", 7)), key("f", 6, struct.pack("<f", 0.5)), key("b", 7, b"\1"), key("s", 8, text("text")),
            key("ids", 9, struct.pack("<IQii", 5, 2, -1, 2)), key("scores", 9, struct.pack("<IQf", 6, 1, 0.5)),
            key("pieces", 9, struct.pack("<IQ", 8, 2) + text("a") + text(""))]
    tensors = [("n.weight", [3], f32, bytes(12)), ("h.weight", [3, 2], f16, bytes(range(12))), ("q.weight", [128, 2], q1_0, bytes(range(36)))]
    write("gguf/types", gguf(keys, tensors))
    write("gguf/empty", gguf([], []))
    write("gguf/overlap", gguf([], tensors, offsets=[0, 0, 32]))
    write("gguf/outside", gguf([], tensors, offsets=[0, 32, 2**40]))
    write("gguf/extents", gguf([], [("a", [2**31 - 1] * 4, q1_0, b"")]))
    write("gguf/no-blocks", gguf([], [("a", [100, 2], q1_0, bytes(36))]))
    write("gguf/many-tensors", gguf([], [])[:8] + struct.pack("<QQ", 2**60, 0))
    write("gguf/long-text", gguf([struct.pack("<Q", 2**63) + b"key"], []))
    write("gguf/long-list", gguf([key("a", 9, struct.pack("<IQ", 8, 2**50))], []))

    write("tokenizer_json/deep", '{"model":' + "[" * 200 + "]" * 200 + "}")
    write("tokenizer_json/unigram", json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}))
    write("tokenizer_json/small", json.dumps(tokenizer_json({}, [])))
    joined = {"Once": 258, "On": 256, "ce": 257}
    write("tokenizer_json/merges", json.dumps(tokenizer_json(joined, ["O n", "c e", "On ce"])))
    write("tokenizer_json/pairs", json.dumps(tokenizer_json(joined, [["O", "n"], ["c", "e"], ["On", "ce"]], ignore_merges=True)))
    write("tokenizer_json/unknown-piece", json.dumps(tokenizer_json(joined, ["O c"])))
    write("tokenizer_json/id-twice", json.dumps(tokenizer_json({"On": 7}, [])))
    write("tokenizer_json/large-id", json.dumps(tokenizer_json({"On": 2**31}, [])))

    story = b"Once upon a time there was a fox.\n" * 4
    packed = gzip.compress(story, mtime=0)
    write("text_file/plain", story)
    write("text_file/gzip", packed)
    write("text_file/members", packed + packed)
    write("text_file/gzip-cut", packed[:-6])
    write("text_file/bomb", gzip.compress(bytes(1 << 22), mtime=0))
    frame = zstd(story[:34])
    write("text_file/zstd", frame)
    write("text_file/frames", frame + struct.pack("<II", 0x184D2A50, 4) + b"skip" + frame)
    write("text_file/zstd-cut", frame[:-3])

    for path in sorted((HERE / "../../formats/torch_files").glob("*.bin")):
        if zipfile.is_zipfile(path):
            write(f"state_dict/{path.stem}", zipfile.ZipFile(path).read(f"{path.stem}/data.pkl"))


if __name__ == "__main__":
    main()
