#!/usr/bin/env python3
"""A plain PyTorch training step with the costs of the published method (FBI-LLM, arXiv 2407.07093): latent fp32 weights that
are binarized in every forward, autograd through sign, scale and shift, whole logits of student and teacher, torch's AdamW over
all parameters, clipping by the global norm. In its fastest plain form: SDPA attention, fused AdamW, no checkpointing, losses read
once per step. It is the baseline of scripts/bench_training.sh and shares no code with the C++ program.

Prints one JSON line: seconds and processor seconds of each step (warm-up steps left out) and the peak memory: resident on a CPU, of
tensors on a GPU. There --bf16 runs both models under autocast, the teacher from weights in bf16.
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


class Llama(nn.Module):
    def __init__(self, shape, binary):
        super().__init__()
        self.checkpointing = False
        linear = BinaryLinear if binary else lambda i, o: nn.Linear(i, o, bias=False)
        self.embedding = nn.Embedding(shape["vocab_size"], shape["hidden_size"])
        self.layers = nn.ModuleList(Layer(shape, linear) for _ in range(shape["num_hidden_layers"]))
        self.norm = RmsNorm(shape["hidden_size"])
        self.head = nn.Linear(shape["hidden_size"], shape["vocab_size"], bias=False)
        size = shape["hidden_size"] // shape["num_attention_heads"]
        frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(shape["max_position_embeddings"]), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
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
    """The teacher's tensors as a Hugging Face LLaMA folder names them."""
    short = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
             "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "norm1": "input_layernorm",
             "norm2": "post_attention_layernorm"}
    out = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight,
           "lm_head.weight": model.head.weight}
    for index, layer in enumerate(model.layers):
        for name, module in layer.named_children():
            out[f"model.layers.{index}.{short[name]}.weight"] = module.weight
    return {name: tensor.detach().contiguous() for name, tensor in out.items()}


def write_safetensors(tensors, path):
    """Length of the header, the header, the bytes one after another; the package of that name is not everywhere."""
    types = {torch.float32: "F32", torch.bfloat16: "BF16"}
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


def train(options):
    torch.manual_seed(0)
    on_gpu = options.device == "cuda"
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.bf16)
    with torch.device(options.device):
        student, teacher = Llama(options.student, binary=not options.dense), None
        student.checkpointing = options.checkpointing
        if options.teacher:
            teacher = Llama(options.teacher, binary=False).requires_grad_(False)
            if options.bf16:
                teacher.to(torch.bfloat16)
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
    parser.add_argument("--teacher", type=json.loads, help="the same; without it the next-token loss")
    parser.add_argument("--write-teacher", metavar="DIR", help="write a random teacher as a Hugging Face folder and end")
    parser.add_argument("--data", help="JSON lines with token_ids, seq_len + 1 each")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--micro-steps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not reported")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dense", action="store_true", help="a full-precision student")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16, teacher in bf16")
    parser.add_argument("--checkpointing", action="store_true", help="keep only the input of each layer of the student for backward")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.write_teacher:
        write_teacher(options.teacher, options.write_teacher, options.device, torch.bfloat16 if options.bf16 else torch.float32)
    else:
        train(options)


if __name__ == "__main__":
    main()
