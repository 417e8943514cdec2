#!/usr/bin/env python3
"""Runs our trainer and tests/bench/pytorch_baseline.py in turn, on the same shapes, data and threads or GPU, and prints what a step
costs each of them and the ratios. Started by scripts/bench_training.sh and, with --device cuda, by scripts/gpu_check.sh. On a GPU
both compute in bf16, memory is what tensors hold on it at most, and both keep all activations or, where the case says so, the
input of each layer. Both read the same teacher, a file in 16 bits. On a CPU ours holds it so and multiplies in fp32, which loses nothing
of it; the baseline holds it in fp32, as the published implementation does.

On a CPU the baseline runs with each of ALLOCATORS and with that of our program in every round, and the fastest one is what is compared.
It counts, as the faster program that it must be for a ratio to mean something, if it takes at most 1.1 times the published processor
time; that was measured on another machine, so the rate of matrix products on both is shown, too.

With --scaling ours alone over four model sizes and, at one size, four token counts per step: what a token costs. With
--binarization ours alone, binarized and dense in turn: what the one bit costs. With --products ours alone, by each of
train.sign_products.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

from run_program import run

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "tests/bench/pytorch_baseline.py"


def shape(hidden, layers, heads, inner, vocab, seq_len):
    return {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "max_position_embeddings": seq_len}


# name: student, teacher (None: next tokens), sequence, micro-batch, micro-steps, changes of our configuration, figures of the published
# implementation on such a machine (2 cores; CPU-seconds per step, peak memory in GB)
S = shape(256, 6, 4, 688, 4096, 256)
M = shape(768, 12, 12, 2048, 32000, 512)
M_TEACHER = shape(1024, 16, 16, 2816, 32000, 512)
CASES = {
    "S": dict(student=S, teacher=S, seq_len=256, micro_batch=8, micro_steps=1, ours=[], published=(1.57, 1.7)),
    "M": dict(student=M, teacher=M_TEACHER, seq_len=512, micro_batch=2, micro_steps=1, ours=["train.loss_chunk_tokens=256"],
              published=(15.3, 6.7)),
    "M-low-memory": dict(student=M, teacher=M_TEACHER, seq_len=512, micro_batch=2, micro_steps=1,
                         ours=["train.loss_chunk_tokens=128"], published=(15.3, 6.7)),
}
COUNTS = 1.1  # times the published processor time that the baseline may take
PUBLISHED_CORE_RATE = 145e9  # fp32 matrix products of the machine of those figures, a core

# What a baseline may be given beside glibc's defaults: the first is what our own program asks of glibc (keep_freed_memory).
ALLOCATORS = {"glibc": {}, "glibc, freed memory kept": {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 60)}}

TEACHER_DTYPES = {"cpu": "float16", "cuda": "bfloat16"}  # of its file


def gpu_case(student, teacher, micro_batch, **changes):
    return dict(student=student, teacher=teacher, seq_len=2048, micro_batch=micro_batch, micro_steps=1, ours=[]) | changes


# The 130M student and that of configs/1.3b.json, with teachers of several sizes; `alone`: why there is no baseline.
GPU_M = shape(768, 12, 12, 2048, 32000, 2048)
GPU_M_TEACHER = shape(1024, 16, 16, 2816, 32000, 2048)
GPU_L = shape(2048, 24, 32, 5632, 32000, 2048)
GPU_7B = shape(4096, 32, 32, 11008, 32000, 2048)
FP8 = dict(ours=["teacher.dtype=fp8"], alone="the plain baseline has no teacher in fp8")
FP8_SIGNS = dict(ours=["train.sign_products=fp8"], alone="the plain baseline multiplies in bf16, as GPU-1.3B does")
RECOMPUTE = dict(ours=["train.recompute=true"], baseline=["--checkpointing"])
GPU_CASES = {
    "GPU-130M": gpu_case(GPU_M, GPU_M_TEACHER, 8),
    "GPU-1.3B": gpu_case(GPU_L, GPU_L, 2),
    "GPU-1.3B-recompute": gpu_case(GPU_L, GPU_L, 4, **RECOMPUTE),
    "GPU-1.3B-fp8-signs": gpu_case(GPU_L, GPU_L, 2, **FP8_SIGNS),
    "GPU-1.3B-next-token": gpu_case(GPU_L, None, 2),
    "GPU-130M-of-7B": gpu_case(GPU_M, GPU_7B, 8),
    "GPU-130M-of-7B-fp8": gpu_case(GPU_M, GPU_7B, 8, **FP8),
    "GPU-1.3B-of-7B": gpu_case(GPU_L, GPU_7B, 2),
    "GPU-1.3B-of-7B-fp8": gpu_case(GPU_L, GPU_7B, 2, **FP8),
    # 6.7e9 parameters: latent weights, gradients and moments 108 GB, the teacher 13, signs for backward in fp32 26, their product 13.
    "GPU-7B-of-7B-recompute": gpu_case(GPU_7B, GPU_7B, 1, ours=["train.recompute=true"],
                                       alone="the baseline needs 160 GB before it keeps an activation"),
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

# Of --binarization and --products: micro-steps, over which what a step does once is spread, and changes of our configuration; ratios
# are to the first of each.
VARIANTS = {
    "binarization": (10, {"dense": ["model.binarize=none"],
                          "binarized, products dense": ["model.binarize=column", "train.sign_products=dense"],
                          "binarized, default": ["model.binarize=column"]}),
    "products": (1, {products: [f"train.sign_products={products}"] for products in ("dense", "tables", "int8")}),
}


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
    if case["teacher"] is None:
        return lines, data, None
    dtype = TEACHER_DTYPES[options.device]
    teacher = folder / "-".join(["teacher", dtype, *(str(number) for number in case["teacher"].values())])
    if not teacher.exists():
        run([python, BASELINE, "--write-teacher", json.dumps(case["teacher"]), "--dtype", dtype, "--teacher", teacher,
             "--device", options.device])
    return lines, data, teacher


def run_ours(case, data, teacher, folder, options, changes=()):
    run_dir = folder / "run"
    run(["rm", "-rf", run_dir])
    batch = case["micro_batch"] * case["micro_steps"]
    config = {
        "model": dict(case["student"], binarize="column"),
        "teacher": {"path": str(teacher)} if teacher else {},
        "data": {"format": "shards", "paths": [str(data)]},
        "objective": {"next_token": 0, "distill": 1} if teacher else {"next_token": 1, "distill": 0},
        "optimizer": {"warmup_steps": 0},
        "train": {"seq_len": case["seq_len"], "global_batch": batch, "micro_batch": case["micro_batch"],
                  "steps": case.get("steps", options.steps), "threads": options.threads, "device": options.device,
                  "precision": "bf16" if options.device == "cuda" else "fp32"},
        "checkpoint": {"every_steps": 0, "at_end": False},  # of 7B parameters it would be 80 GB
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
    by_step = (*OURS_BY_STEP, "phase_seconds")
    return {key: [step[key] for step in steps[options.warmup:]] for key in by_step} | {
        "peak_memory_bytes": peak, "memory_bytes": steps[-1]["memory_bytes"], "parameters": environment["parameters"],
        "matrix_flops_per_second": environment.get("matrix_flops_per_second")}


def run_baseline(case, lines, teacher, options, allocator):
    command = [options.python, BASELINE, "--student", json.dumps(case["student"]), "--data", lines, "--micro-batch", case["micro_batch"],
               "--micro-steps", case["micro_steps"], "--steps", options.steps, "--warmup", options.warmup, "--threads", options.threads,
               *device_options(options.device), *case.get("baseline", [])]
    if teacher:
        command += ["--teacher", teacher]
    return json.loads(run(command, env={**os.environ, **allocator}))


BY_STEP = ("step_seconds", "cpu_seconds")
OURS_BY_STEP = (*BY_STEP, "flops_per_second", "matrix_share")


def median(rounds, key):
    """Over all steps of all rounds; the machine's other work makes single steps slow, hardly ever fast. None where nothing is known."""
    values = [value for one in rounds for value in one[key] if value is not None]
    return statistics.median(values) if values else None


def summary(rounds, keys=BY_STEP):
    return {key: median(rounds, key) for key in keys} | {"peak_memory_bytes": max(one["peak_memory_bytes"] for one in rounds)}


def summary_of_ours(rounds):
    phases = {name: statistics.median(step[name] for one in rounds for step in one["phase_seconds"]) for name in rounds[0]["phase_seconds"][0]}
    last = rounds[-1]
    return summary(rounds, OURS_BY_STEP) | {"phase_seconds": phases, "memory_bytes": last["memory_bytes"],
                                            "matrix_flops_per_second": last["matrix_flops_per_second"]}


def tokens_per_step(case):
    return case["seq_len"] * case["micro_batch"] * case["micro_steps"]


def row(title, tokens, figures):
    return f"  {title:40}{tokens / figures['step_seconds']:10.1f}{figures['cpu_seconds']:12.3f}{figures['peak_memory_bytes'] / 1e9:9.2f}"


def report_ours(name, case, ours):
    tokens = tokens_per_step(case)
    print(f"\n{name}: {tokens} tokens per step, {', '.join(case['ours']) or 'default settings'}")
    print(f"  {'':40}{'tokens/s':>10}{'CPU s/step':>12}{'peak GB':>9}")
    print(row("ours", tokens, ours))
    if ours["matrix_share"]:
        rates = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in ours["matrix_flops_per_second"].items())
        print(f"    its arithmetic at {ours['matrix_share']:.2f} of the measured rate of matrix products ({rates} GFLOP/s)")
    else:
        print("    the rate of matrix products is not measured in a run as short as this one: take more --steps")
    print("    seconds of a step: " + ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in ours["phase_seconds"].items()))


def report_baselines(case, baselines):
    """The fastest one, with its allocator."""
    for allocator, figures in baselines.items():
        print(row(f"PyTorch baseline, {allocator}", tokens_per_step(case), figures))
    best = min(baselines, key=lambda allocator: baselines[allocator]["step_seconds"])
    if len(baselines) > 1:
        print(f"  the baseline is compared with its fastest allocator: {best}")
    return {"allocator": best, **baselines[best]}


def compared(ours, baseline):
    ratios = {"speed": baseline["step_seconds"] / ours["step_seconds"], "cpu": baseline["cpu_seconds"] / ours["cpu_seconds"],
              "memory": ours["peak_memory_bytes"] / baseline["peak_memory_bytes"]}
    print(f"  ours is {ratios['speed']:.2f}x as fast, {ratios['cpu']:.2f}x by processor time, at {ratios['memory']:.2f}x of the memory")
    return ratios


def against_published(case, ours, baseline, threads):
    """Whether the baseline is as fast as it must be, by the clock and, if known, by what the machine's matrix products make of it."""
    cpu, memory = case["published"]
    ratio = baseline["cpu_seconds"] / cpu
    result = {"counts": ratio <= COUNTS, "baseline_to_published_cpu": ratio}
    print(f"  {'published, elsewhere':40}{'':10}{cpu:12.3f}{memory:9.2f}")
    print(f"  the baseline takes {ratio:.2f}x of the published processor time: it {'counts' if result['counts'] else 'does not count'} "
          f"(at most {COUNTS})")
    if ours["matrix_flops_per_second"]:
        core_rate = ours["matrix_flops_per_second"]["fp32"] / threads
        at_equal_rates = ratio * core_rate / PUBLISHED_CORE_RATE
        print(f"  matrix products of a core: {core_rate / 1e9:.0f} GFLOP/s here, {PUBLISHED_CORE_RATE / 1e9:.0f} there; "
              f"at equal rates it would be {at_equal_rates:.2f}x")
        result |= {"baseline_to_published_at_equal_rates": at_equal_rates, "matrix_flops_per_second_of_a_core": core_rate}
    return result


def allocators_to_try(options):
    """{name: what the baseline's environment gets}: what our program is linked with is there for the baseline, too."""
    if options.device == "cuda":
        return {"CUDA": {}}
    libraries = subprocess.run(["ldd", options.program], capture_output=True, text=True).stdout
    linked = [Path(path) for path in re.findall(r"=> (\S*malloc\S*)", libraries)]
    given = [options.preload] if options.preload else []
    return ALLOCATORS | {library.name: {"LD_PRELOAD": str(library)} for library in [*linked, *given]}


def compare(cases, options):
    """Ours and the baseline in turn."""
    allocators = allocators_to_try(options)
    results = []
    for name, case in cases.items():
        lines, data, teacher = prepare(case, options.work, options)
        ours, baselines = [], {} if "alone" in case else {allocator: [] for allocator in allocators}
        for number in range(options.rounds):
            print(f"{name}: round {number + 1} of {options.rounds}", file=sys.stderr)
            ours.append(run_ours(case, data, teacher, options.work, options))
            for allocator, rounds in baselines.items():
                rounds.append(run_baseline(case, lines, teacher, options, allocators[allocator]))
        ours = summary_of_ours(ours)
        report_ours(name, case, ours)
        result = {"case": name, "tokens_per_step": tokens_per_step(case), "ours": ours}
        if baselines:
            baselines = {allocator: summary(rounds) for allocator, rounds in baselines.items()}
            best = report_baselines(case, baselines)
            result |= {"baseline": best, "baselines": baselines, "ratios": compared(ours, best)}
            if "published" in case:
                result |= against_published(case, ours, best, options.threads)
        else:
            print(f"  no baseline: {case['alone']}")
        results.append(result)
    return results


def measure_scaling(cases, options):
    """What a token costs, by size of the model and tokens per step. Operations are those that the run itself reports."""
    print(f"{'':12}{'parameters':>12}{'tokens/step':>12}{'GFLOP/token':>12}{'ms/token':>10}{'CPU ms/GFLOP':>14}{'GFLOP/s':>9}{'share':>7}"
          "  of the measured rate of matrix products")
    results = []
    for name, case in cases.items():
        _, data, teacher = prepare(case, options.work, options)
        run_figures = run_ours(case, data, teacher, options.work, options)
        middle = summary([run_figures], OURS_BY_STEP)
        tokens = tokens_per_step(case)
        # One and the same in every step, but for the rounding of flops_per_second.
        flops = run_figures["step_seconds"][0] * run_figures["flops_per_second"][0] / tokens
        ms, cpu_ms = (1000 * middle[key] / tokens for key in ("step_seconds", "cpu_seconds"))
        cpu_ms_per_gflop = cpu_ms / (flops / 1e9)
        share = f"{100 * middle['matrix_share']:.0f}%" if middle["matrix_share"] else "?"
        print(f"{name:12}{run_figures['parameters'] / 1e6:11.1f}M{tokens:12}{flops / 1e9:12.3f}{ms:10.3f}{cpu_ms_per_gflop:14.2f}"
              f"{middle['flops_per_second'] / 1e9:9.1f}{share:>7}", flush=True)
        results.append({"case": name, "tokens_per_step": tokens, "flops_per_token": flops, "ms_per_token": ms,
                        "cpu_ms_per_gflop": cpu_ms_per_gflop, **run_figures})
    return results


def measure_variants(cases, options):
    """Steps of ours in each of several forms in turn, all else equal."""
    micro_steps, variants = VARIANTS[options.variants]
    results = []
    for name, case in cases.items():
        case = case | {"micro_steps": micro_steps}
        _, data, teacher = prepare(case, options.work, options)
        rounds = {kind: [] for kind in variants}
        for number in range(options.rounds):
            print(f"{name}: round {number + 1} of {options.rounds}", file=sys.stderr)
            for kind, changes in variants.items():
                rounds[kind].append(run_ours(case, data, teacher, options.work, options, changes))
        figures = {kind: summary(found) for kind, found in rounds.items()}
        print(f"\n{name}: {micro_steps} micro-steps, {tokens_per_step(case)} tokens per step, the same teacher")
        print(f"  {'':28}{'s/step':>9}{'to dense':>10}{'CPU s/step':>12}{'to dense':>10}{'peak GB':>9}")
        for kind, found in figures.items():
            found |= {f"{key}_ratio": found[key] / figures["dense"][key] for key in BY_STEP}
            print(f"  {kind:28}{found['step_seconds']:9.3f}{found['step_seconds_ratio']:10.3f}{found['cpu_seconds']:12.3f}"
                  f"{found['cpu_seconds_ratio']:10.3f}{found['peak_memory_bytes'] / 1e9:9.2f}")
        results.append({"case": name, "micro_steps": micro_steps, "figures": figures})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE",
                        help="; ".join(f"{', '.join(cases)} ({device})" for device, cases in ALL_CASES.items()))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scaling", action="store_true", help=f"cost per token; cases {', '.join(SCALING_CASES)}")
    for variants, what_for in (("binarization", "one-bit against dense weights"), ("products", "ways to multiply with one-bit weights")):
        what.add_argument(f"--{variants}", action="store_const", const=variants, dest="variants",
                          help=f"{what_for}; the first case alone, unless told")
    parser.add_argument("--device", default="cpu", choices=list(ALL_CASES))
    parser.add_argument("--rounds", type=int, default=2, help="how often both run, in turn")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2, help="steps that do not count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--preload", type=Path, metavar="LIB", help="an allocator to try the baseline with, too, as libjemalloc.so.2")
    parser.add_argument("--python", default=sys.executable, help="Python with torch for the baseline")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench-training", help="folder for data and teachers")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/fbi-llm")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    cases = SCALING_CASES if options.scaling else ALL_CASES[options.device]
    for name in options.cases:
        if name not in cases:
            parser.error(f"unknown case {name}; choose from {', '.join(cases)}")
    names = options.cases or (list(cases)[:1] if options.variants else list(cases))
    if options.preload and not options.preload.is_file():
        parser.error(f"--preload {options.preload}: no such file")
    options.work.mkdir(parents=True, exist_ok=True)
    measure = measure_scaling if options.scaling else measure_variants if options.variants else compare
    results = measure({name: cases[name] for name in names}, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
