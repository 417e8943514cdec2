"""Writes the corpora of the fuzz targets, small sound and broken inputs, beside this file."""
import json
import pathlib
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


def main():
    two = {"__metadata__": {"format": "pt"}, "a": tensor(0, 8, [2]), "b": tensor(8, 12, [2, 1], "BF16")}
    write("safetensors/two", safetensors(two, bytes(range(12))))
    write("safetensors/empty", safetensors({}))
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

    for path in sorted((HERE / "../../formats/torch_files").glob("*.bin")):
        if zipfile.is_zipfile(path):
            write(f"state_dict/{path.stem}", zipfile.ZipFile(path).read(f"{path.stem}/data.pkl"))


if __name__ == "__main__":
    main()
