#!/usr/bin/env python3
"""A plain PyTorch training step with the costs of the published method (FBI-LLM, arXiv 2407.07093): latent fp32 weights that
are binarized in every forward, autograd through sign, scale and shift, whole logits of student and teacher, torch's AdamW over
all parameters, clipping by the global norm. In its fastest plain form: SDPA attention, fused AdamW, no checkpointing, losses read
once per step. It is the baseline of scripts/bench_training.sh and shares no code with the C++ program.

The teacher is read from a folder, which both programs share. Its file is in 16 bits, as LLaMA models are published; on a CPU it is held
in fp32 here, as the published implementation does.

Prints one JSON line: seconds and processor seconds of each step (warm-up steps left out) and the peak memory: resident on a CPU, of
tensors on a GPU. There --bf16 runs both models under autocast, the teacher with weights in bf16.
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Sign(torch.autograd.Function):
    """sign with the straight-through estimator."""

    @staticmethod
    def forward(ctx, weight):
        return weight.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class BinaryLinear(nn.Module):
    """y = x (alpha * sign(W) + beta)^T, one alpha and beta per input column; paper, section 3.1."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.02)
        beta = self.weight.data.mean(0, keepdim=True)
        self.scale = nn.Parameter((self.weight.data - beta).abs().mean(0, keepdim=True))
        self.shift = nn.Parameter(beta)

    def forward(self, x):
        return F.linear(x, Sign.apply(self.weight) * self.scale + self.shift)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


def rotate(x, cos, sin):
    half, cos, sin = x.shape[-1] // 2, cos.to(x.dtype), sin.to(x.dtype)
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Layer(nn.Module):
    def __init__(self, shape, linear):
        super().__init__()
        hidden, inner = shape["hidden_size"], shape["intermediate_size"]
        self.heads = shape["num_attention_heads"]
        self.norm1, self.norm2 = RmsNorm(hidden), RmsNorm(hidden)
        self.q, self.k, self.v, self.o = (linear(hidden, hidden) for _ in range(4))
        self.gate, self.up, self.down = linear(hidden, inner), linear(hidden, inner), linear(inner, hidden)

    def forward(self, x, cos, sin):
        batch, length, hidden = x.shape
        split = lambda y: y.view(batch, length, self.heads, -1).transpose(1, 2)
        h = self.norm1(x)
        q, k, v = rotate(split(self.q(h)), cos, sin), rotate(split(self.k(h)), cos, sin), split(self.v(h))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(batch, length, hidden))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def angles(shape):
    """Cosines and sines of the rotary embedding."""
    size = shape["hidden_size"] // shape["num_attention_heads"]
    frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(shape["max_position_embeddings"]), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


class Llama(nn.Module):
    def __init__(self, shape, binary):
        super().__init__()
        self.checkpointing = False
        linear = BinaryLinear if binary else lambda i, o: nn.Linear(i, o, bias=False)
        self.embedding = nn.Embedding(shape["vocab_size"], shape["hidden_size"])
        self.layers = nn.ModuleList(Layer(shape, linear) for _ in range(shape["num_hidden_layers"]))
        self.norm = RmsNorm(shape["hidden_size"])
        self.head = nn.Linear(shape["hidden_size"], shape["vocab_size"], bias=False)
        for name, values in zip(("cos", "sin"), angles(shape)):
            self.register_buffer(name, values, persistent=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids):
        x = self.embedding(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False) if self.checkpointing else layer(x, cos, sin)
        return self.head(self.norm(x))


def hugging_face_names(model):
    """The teacher's own tensors as a Hugging Face LLaMA folder names them."""
    short = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
             "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "norm1": "input_layernorm",
             "norm2": "post_attention_layernorm"}
    out = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight,
           "lm_head.weight": model.head.weight}
    for index, layer in enumerate(model.layers):
        for name, module in layer.named_children():
            out[f"model.layers.{index}.{short[name]}.weight"] = module.weight
    return {name: tensor.detach() for name, tensor in out.items()}


# Safetensors: length of the header, the header, the bytes one after another; the package of that name is not everywhere.
SAFETENSORS_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def write_safetensors(tensors, path):
    types = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": types[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            tensor.cpu().view(torch.uint8).numpy().tofile(file)


def read_safetensors(path):
    """(name, tensor) one by one: all at once would count as memory of what they are copied to."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            data = bytearray(end - begin)
            file.seek(start + begin)
            file.readinto(data)
            yield name, torch.frombuffer(data, dtype=SAFETENSORS_TYPES[entry["dtype"]]).view(entry["shape"])


def write_teacher(shape, folder, device, dtype):
    torch.manual_seed(1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with torch.device(device):
        teacher = Llama(shape, binary=False).to(dtype)
    write_safetensors(hugging_face_names(teacher), f"{folder}/model.safetensors")
    config = dict(shape, model_type="llama", architectures=["LlamaForCausalLM"], rms_norm_eps=1e-5, rope_theta=10000.0,
                  hidden_act="silu", tie_word_embeddings=False, torch_dtype=str(dtype).removeprefix("torch."),
                  num_key_value_heads=shape["num_attention_heads"])
    Path(folder, "config.json").write_text(json.dumps(config, indent=2))


def read_teacher(folder, device, dtype):
    """Nothing is allocated but the weights as they are used: no second form of them counts as peak memory."""
    shape = json.loads(Path(folder, "config.json").read_text())
    with torch.device("meta"):
        teacher = Llama(shape, binary=False).to(dtype)
    teacher.to_empty(device=device).requires_grad_(False)
    own = hugging_face_names(teacher)
    for name, tensor in read_safetensors(f"{folder}/model.safetensors"):
        own[name].copy_(tensor)
    with torch.device(device):
        teacher.cos, teacher.sin = angles(shape)
    return teacher


def train(options):
    torch.manual_seed(0)
    on_gpu = options.device == "cuda"
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.bf16)
    with torch.device(options.device):
        student = Llama(options.student, binary=not options.dense)
    student.checkpointing = options.checkpointing
    teacher = None
    if options.teacher:
        teacher = read_teacher(options.teacher, options.device, torch.bfloat16 if options.bf16 else torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    with open(options.data) as file:
        samples = [json.loads(line)["token_ids"] for line in file]
    seconds, cpu = [], []
    for step in range(options.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        for micro in range(options.micro_steps):
            first = (step * options.micro_steps + micro) * options.micro_batch
            ids = torch.tensor([samples[(first + i) % len(samples)] for i in range(options.micro_batch)]).to(options.device)
            inputs, targets = ids[:, :-1], ids[:, 1:]
            with autocast:
                logits = student(inputs)
                if teacher:
                    with torch.no_grad():
                        soft = teacher(inputs).softmax(-1)
                    loss = F.cross_entropy(logits.flatten(0, 1), soft.flatten(0, 1))
                else:
                    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            (loss / options.micro_steps).backward()
            del logits
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert math.isfinite(loss.item())
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    skip = options.warmup
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_seconds": seconds[skip:], "cpu_seconds": cpu[skip:], "peak_memory_bytes": peak}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=json.loads, help="shape as JSON, keys of a Hugging Face config.json")
    parser.add_argument("--teacher", metavar="DIR", help="Hugging Face folder; without it the next-token loss")
    parser.add_argument("--write-teacher", type=json.loads, metavar="SHAPE", help="write a random one of this shape to --teacher and end")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16"), help="of the file that --write-teacher writes")
    parser.add_argument("--data", help="JSON lines with token_ids, seq_len + 1 each")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--micro-steps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not reported")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dense", action="store_true", help="a full-precision student")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16, teacher held in bf16")
    parser.add_argument("--checkpointing", action="store_true", help="keep only the input of each layer of the student for backward")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.write_teacher:
        write_teacher(options.write_teacher, options.teacher, options.device, getattr(torch, options.dtype))
    else:
        train(options)


if __name__ == "__main__":
    main()
