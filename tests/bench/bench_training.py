#!/usr/bin/env python3
"""Runs our trainer and tests/bench/pytorch_baseline.py in turn, on the same shapes, data and threads or GPU, and prints what a step
costs each of them and the ratios. Started by scripts/bench_training.sh and, with --device cuda, by scripts/gpu_check.sh. On a GPU
both compute in bf16, memory is what tensors hold on it at most, and both keep all activations or, where the case says so, the
input of each layer.

With --scaling ours alone over four model sizes and, at one size, four token counts per step: what a token costs. With
--binarization ours alone, binarized and dense in turn: what the one bit costs.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "tests/bench/pytorch_baseline.py"


def shape(hidden, layers, heads, inner, vocab, seq_len):
    return {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "max_position_embeddings": seq_len}


# name: student, teacher, sequence, micro-batch, micro-steps, changes of our configuration, figures of the published
# implementation on such a machine (2 cores; CPU-seconds per step, peak memory in GB)
S = shape(256, 6, 4, 688, 4096, 256)
M = shape(768, 12, 12, 2048, 32000, 512)
M_TEACHER = shape(1024, 16, 16, 2816, 32000, 512)
CASES = {
    "S": dict(student=S, teacher=S, seq_len=256, micro_batch=8, micro_steps=1, ours=[], published=(1.57, 1.7)),
    "M": dict(student=M, teacher=M_TEACHER, seq_len=512, micro_batch=2, micro_steps=1, ours=["train.loss_chunk_tokens=256"], published=(15.3, 6.7)),
    "M-low-memory": dict(student=M, teacher=M_TEACHER, seq_len=512, micro_batch=2, micro_steps=1,
                         ours=["train.recompute=true", "train.loss_chunk_tokens=128", "train.micro_batch=1"],
                         published=(15.3, 6.7)),
}

# The 130M student with the teacher of case M, and the shape of configs/1.3b.json on both sides.
GPU_M = shape(768, 12, 12, 2048, 32000, 2048)
GPU_M_TEACHER = shape(1024, 16, 16, 2816, 32000, 2048)
GPU_L = shape(2048, 24, 32, 5632, 32000, 2048)
GPU_CASES = {
    "GPU-130M": dict(student=GPU_M, teacher=GPU_M_TEACHER, seq_len=2048, micro_batch=8, micro_steps=1, ours=[]),
    "GPU-1.3B": dict(student=GPU_L, teacher=GPU_L, seq_len=2048, micro_batch=2, micro_steps=1, ours=[]),
    "GPU-1.3B-recompute": dict(student=GPU_L, teacher=GPU_L, seq_len=2048, micro_batch=4, micro_steps=1,
                               ours=["train.recompute=true"], baseline=["--checkpointing"]),
}
ALL_CASES = {"cpu": CASES, "cuda": GPU_CASES}


def scaling_case(student, micro_batch, micro_steps, steps):
    """Distillation from a teacher of the student's own shape."""
    return dict(student=student, teacher=student, seq_len=512, micro_batch=micro_batch, micro_steps=micro_steps, steps=steps,
                ours=["train.loss_chunk_tokens=256"])


# The first four differ in size alone, those from 512x8 on in tokens per step alone.
MIDDLE = shape(512, 8, 8, 1376, 32000, 512)
SCALING_CASES = {
    "256x6": scaling_case(shape(256, 6, 4, 688, 32000, 512), 2, 1, 12),
    "512x8": scaling_case(MIDDLE, 2, 1, 6),
    "768x12": scaling_case(M, 2, 1, 4),
    "1024x16": scaling_case(M_TEACHER, 2, 1, 4),
    "512x8-512": scaling_case(MIDDLE, 1, 1, 8),
    "512x8-2048": scaling_case(MIDDLE, 2, 2, 5),
    "512x8-4096": scaling_case(MIDDLE, 2, 4, 4),
}

MICRO_STEPS = 10  # of --binarization: what a step does once is spread over them
BINARIZATION = {"dense": ["model.binarize=none"],
                "binarized, products dense": ["model.binarize=column", "train.sign_products=dense"],
                "binarized, default": ["model.binarize=column"]}


def device_options(device):
    """What the baseline is told of the device."""
    return ["--device", "cuda", "--bf16"] if device == "cuda" else []


def prepare(case, folder, options):
    """Data and teacher, once for all cases that share them."""
    python, program = options.python, options.program
    vocab, length = case["student"]["vocab_size"], case["seq_len"] + 1
    data_name = f"{vocab}-{case['seq_len']}"
    lines = folder / f"{data_name}.jsonl"
    if not lines.exists():
        numbers = random.Random(1)
        text = "".join(json.dumps({"token_ids": [numbers.randrange(3, vocab) for _ in range(length)]}) + "\n" for _ in range(64))
        lines.write_text(text)
    data = folder / f"{data_name}-data"
    if not data.exists():
        run([program, "prepare", "--input", lines, "--vocab-size", vocab, "--seq-len", case["seq_len"],
             "--out", data])
    teacher = folder / "-".join(["teacher", options.device, *(str(number) for number in case["teacher"].values())])
    if not teacher.exists():
        run([python, BASELINE, "--teacher", json.dumps(case["teacher"]), "--write-teacher", teacher, *device_options(options.device)])
    return lines, data, teacher


def run(command, **options):
    command = [str(word) for word in command]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout[-2000:]}{result.stderr[-2000:]}\nfailed with {result.returncode}")
    return result.stdout


def run_ours(case, data, teacher, folder, options, changes=()):
    run_dir = folder / "run"
    run(["rm", "-rf", run_dir])
    batch = case["micro_batch"] * case["micro_steps"]
    config = {
        "model": dict(case["student"], binarize="column"),
        "teacher": {"path": str(teacher)},
        "data": {"format": "shards", "paths": [str(data)]},
        "objective": {"next_token": 0, "distill": 1},
        "optimizer": {"warmup_steps": 0},
        "train": {"seq_len": case["seq_len"], "global_batch": batch, "micro_batch": case["micro_batch"],
                  "steps": case.get("steps", options.steps), "threads": options.threads, "device": options.device,
                  "precision": "bf16" if options.device == "cuda" else "fp32"},
        "checkpoint": {"every_steps": 0},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    command = [options.program, "train", "--config", path, "--run-dir", run_dir]
    for change in [*case["ours"], *changes]:
        command += ["--set", change]
    run(command)
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    environment = json.loads((run_dir / "environment.json").read_text())
    run(["rm", "-rf", run_dir])
    peak = steps[-1]["peak_device_memory_bytes" if options.device == "cuda" else "peak_memory_bytes"]
    by_step = ("step_seconds", "cpu_seconds", "flops_per_second", "matrix_share")
    return {key: [step[key] for step in steps[options.warmup:]] for key in by_step} | {
        "peak_memory_bytes": peak, "memory_bytes": steps[-1]["memory_bytes"], "parameters": environment["parameters"],
        "matrix_flops_per_second": environment.get("matrix_flops_per_second")}


def run_baseline(case, lines, options, python):
    command = [python, BASELINE, "--student", json.dumps(case["student"]), "--teacher", json.dumps(case["teacher"]), "--data", lines,
               "--micro-batch", case["micro_batch"], "--micro-steps", case["micro_steps"], "--steps", options.steps,
               "--warmup", options.warmup, "--threads", options.threads, *device_options(options.device), *case.get("baseline", [])]
    return json.loads(run(command))


def summary(rounds):
    """Medians over all steps of all rounds; the machine's other work makes single steps slow, hardly ever fast."""
    steps = {key: statistics.median(value for one in rounds for value in one[key]) for key in ("step_seconds", "cpu_seconds")}
    return steps | {"peak_memory_bytes": max(one["peak_memory_bytes"] for one in rounds)}


def tokens_per_step(case):
    return case["seq_len"] * case["micro_batch"] * case["micro_steps"]


def report(name, case, ours, baseline):
    tokens = tokens_per_step(case)
    print(f"\n{name}: {tokens} tokens per step, {', '.join(case['ours']) or 'default settings'}")
    print(f"  {'':24}{'tokens/s':>10}{'CPU s/step':>12}{'peak GB':>9}")
    for title, row in (("ours", ours), ("PyTorch baseline", baseline)):
        print(f"  {title:24}{tokens / row['step_seconds']:10.1f}{row['cpu_seconds']:12.3f}{row['peak_memory_bytes'] / 1e9:9.2f}")
    ratios = {"speed": baseline["step_seconds"] / ours["step_seconds"], "cpu": baseline["cpu_seconds"] / ours["cpu_seconds"],
              "memory": ours["peak_memory_bytes"] / baseline["peak_memory_bytes"]}
    if "published" in case:
        cpu, memory = case["published"]
        ratios["baseline_to_published_cpu"] = baseline["cpu_seconds"] / cpu
        print(f"  {'published (elsewhere)':24}{'':10}{cpu:12.3f}{memory:9.2f}")
    print(f"  ours is {ratios['speed']:.2f}x as fast, {ratios['cpu']:.2f}x by processor time, at {ratios['memory']:.2f}x of the memory")
    if "published" in case:
        print(f"  the baseline takes {ratios['baseline_to_published_cpu']:.2f}x of the published processor time")
    return {"case": name, "tokens_per_step": tokens, "ours": ours, "baseline": baseline, "ratios": ratios}


def compare(cases, options):
    """Ours and the baseline in turn."""
    results = []
    for name, case in cases.items():
        lines, data, teacher = prepare(case, options.work, options)
        ours, baseline = [], []
        for number in range(options.rounds):
            print(f"{name}: round {number + 1} of {options.rounds}", file=sys.stderr)
            ours.append(run_ours(case, data, teacher, options.work, options))
            baseline.append(run_baseline(case, lines, options, options.python))
        results.append(report(name, case, summary(ours), summary(baseline)) | {"memory_bytes": ours[-1]["memory_bytes"]})
    return results


def measure_scaling(cases, options):
    """What a token costs, by size of the model and tokens per step. Operations are those that the run itself reports."""
    print(f"{'':12}{'parameters':>12}{'tokens/step':>12}{'GFLOP/token':>12}{'ms/token':>10}{'CPU ms/GFLOP':>14}{'GFLOP/s':>9}{'share':>7}"
          "  of the measured rate of matrix products")
    results = []
    for name, case in cases.items():
        _, data, teacher = prepare(case, options.work, options)
        run_figures = run_ours(case, data, teacher, options.work, options)
        middle = {key: statistics.median(run_figures[key]) for key in ("step_seconds", "cpu_seconds", "flops_per_second", "matrix_share")}
        tokens = tokens_per_step(case)
        # One and the same in every step, but for the rounding of flops_per_second.
        flops = run_figures["step_seconds"][0] * run_figures["flops_per_second"][0] / tokens
        ms, cpu_ms = (1000 * middle[key] / tokens for key in ("step_seconds", "cpu_seconds"))
        cpu_ms_per_gflop = cpu_ms / (flops / 1e9)
        print(f"{name:12}{run_figures['parameters'] / 1e6:11.1f}M{tokens:12}{flops / 1e9:12.3f}{ms:10.3f}{cpu_ms_per_gflop:14.2f}"
              f"{middle['flops_per_second'] / 1e9:9.1f}{100 * middle['matrix_share']:6.0f}%", flush=True)
        results.append({"case": name, "tokens_per_step": tokens, "flops_per_token": flops, "ms_per_token": ms,
                        "cpu_ms_per_gflop": cpu_ms_per_gflop, **run_figures})
    return results


def measure_binarization(cases, options):
    """Steps of ours with one-bit and with dense weights in turn, all else equal."""
    results = []
    for name, case in cases.items():
        case = case | {"micro_steps": MICRO_STEPS}
        _, data, teacher = prepare(case, options.work, options)
        rounds = {kind: [] for kind in BINARIZATION}
        for number in range(options.rounds):
            print(f"{name}: round {number + 1} of {options.rounds}", file=sys.stderr)
            for kind, changes in BINARIZATION.items():
                rounds[kind].append(run_ours(case, data, teacher, options.work, options, changes))
        figures = {kind: summary(found) for kind, found in rounds.items()}
        print(f"\n{name}: {MICRO_STEPS} micro-steps, {tokens_per_step(case)} tokens per step, the same teacher")
        print(f"  {'':28}{'s/step':>9}{'to dense':>10}{'CPU s/step':>12}{'to dense':>10}{'peak GB':>9}")
        for kind, row in figures.items():
            row |= {f"{key}_ratio": row[key] / figures["dense"][key] for key in ("step_seconds", "cpu_seconds")}
            print(f"  {kind:28}{row['step_seconds']:9.3f}{row['step_seconds_ratio']:10.3f}{row['cpu_seconds']:12.3f}"
                  f"{row['cpu_seconds_ratio']:10.3f}{row['peak_memory_bytes'] / 1e9:9.2f}")
        results.append({"case": name, "micro_steps": MICRO_STEPS, "figures": figures})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE",
                        help="; ".join(f"{', '.join(cases)} ({device})" for device, cases in ALL_CASES.items()))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scaling", action="store_true", help=f"cost per token; cases {', '.join(SCALING_CASES)}")
    what.add_argument("--binarization", action="store_true", help="one-bit against dense weights; the first case alone, unless told")
    parser.add_argument("--device", default="cpu", choices=list(ALL_CASES))
    parser.add_argument("--rounds", type=int, default=2, help="how often both run, in turn")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2, help="steps that do not count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", default=sys.executable, help="Python with torch for the baseline")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench-training", help="folder for data and teachers")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/fbi-llm")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    cases = SCALING_CASES if options.scaling else ALL_CASES[options.device]
    for name in options.cases:
        if name not in cases:
            parser.error(f"unknown case {name}; choose from {', '.join(cases)}")
    names = options.cases or (list(cases)[:1] if options.binarization else list(cases))
    options.work.mkdir(parents=True, exist_ok=True)
    measure = measure_scaling if options.scaling else measure_binarization if options.binarization else compare
    results = measure({name: cases[name] for name in names}, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
