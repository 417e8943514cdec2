#!/usr/bin/env python3
"""Runs llama.cpp and our 1-bit runtime in turn, on random weights of the same shapes and with the same threads, and prints
tokens/s of both and the ratios. Started by scripts/bench_inference.sh.

llama.cpp runs with plain and with flash attention, and takes prompts in short and in long passes. The fastest way counts, of a prompt
and of decoding each: so it may be one for the former and another for the latter, which no single run of llama.cpp has.
"""
import argparse
import json
import os
import re
import sys
from pathlib import Path

from run_program import run

ROOT = Path(__file__).resolve().parents[2]
LLAMA = ROOT / "tests/bench/bench_inference_llama.py"
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # fbi-run asks for them by itself
CASES = {"130m": "configs/130m.json", "1.3b": "configs/1.3b.json"}
# What the F16 file is rounded to. By itself llama.cpp gives the head six bits per weight; "pure" leaves it one, too.
THEIRS = {"llama.cpp F16": [], "llama.cpp Q1_0": ["Q1_0"], "llama.cpp Q1_0 pure": ["Q1_0", "--pure"]}
OURS = {
    "exact, fp16 head": ["--head", "fp16"],
    "exact, fp16 head, no screen": ["--head", "fp16", "--head-screen", "off"],
    # As llama.cpp has its keys and values.
    "exact, fp16 head, fp16 cache": ["--head", "fp16", "--cache", "fp16"],
    "exact, int8 head": ["--head", "int8"],
    "int8, int8 head": ["--activations", "int8", "--head", "int8"],
    "exact, int8 head, fp16 cache": ["--head", "int8", "--cache", "fp16"],
    "int8, int8 head, fp16 cache": ["--activations", "int8", "--head", "int8", "--cache", "fp16"],
}


def read_shape(path):
    """The model of a configuration, whose comments begin with //."""
    text = re.sub(r'("(?:[^"\\]|\\.)*")|//[^\n]*', lambda match: match.group(1) or "", path.read_text())
    config = json.loads(text)
    return config.get("model", config)


def prepare(name, shape, options):
    """{row: model file} of llama.cpp, written once."""
    llama = [options.python, LLAMA, "--site", options.llama_cpp]
    files = {}
    for row, rounding in THEIRS.items():
        file = options.work / f"{name}-{row.removeprefix('llama.cpp ').replace(' ', '-')}.gguf"
        if not file.exists():
            print(f"{name}: writing {file.name}", file=sys.stderr)
            what = ["--quantize", *rounding, "--model", files["llama.cpp F16"]] if rounding else ["--write", json.dumps(shape)]
            part = file.with_suffix(".part")
            run([*llama, *what, "--out", part])
            part.rename(file)
        files[row] = file
    return files


def measure_theirs(file, shape, prompt_tokens, options):
    found = json.loads(run([options.python, LLAMA, "--site", options.llama_cpp, "--measure", "--model", file, "--prompt-tokens",
                            prompt_tokens, "--new-tokens", options.new_tokens, "--texts", options.texts, "--threads", options.threads],
                           env=os.environ | HUGE_PAGES))
    # A token reads one row of the embedding, which is as large as the head.
    embedding = shape["vocab_size"] * shape["hidden_size"] * (2 if file.stem.endswith("F16") else 18 / 128)
    # Keys and values in F16, half way through.
    heads = shape["num_attention_heads"]
    cache = 4 * shape["num_hidden_layers"] * shape["hidden_size"] // heads * shape.get("num_key_value_heads", heads)
    positions = prompt_tokens + options.new_tokens // 2
    return found | {"bytes_per_token": (found.pop("model_bytes") - embedding) / options.texts + cache * positions}


def measure_ours(words, config, prompt_tokens, options):
    (found,) = json.loads(run([options.program, "bench", "--config", config, "--threads", options.threads, "--prompt-tokens",
                               prompt_tokens, "--new-tokens", options.new_tokens, "--texts", options.texts, "--json", *words]))
    return found


def best(rounds):
    """The best of all rounds: the machine's other work makes a round slow, never fast."""
    return {key: max(one[key] for one in rounds) for key in rounds[0] if isinstance(rounds[0][key], (int, float))}


def fastest(rounds):
    """The best round of llama.cpp's fastest way, of prompt and decoding each; `ways` has all of them, the fastest first."""
    ways = {}
    for phase in ("prompt", "decode"):
        rates = best([one[phase] for one in rounds])
        ways[phase] = dict(sorted(rates.items(), key=lambda way: -way[1]))
    return {"prompt_tokens_per_second": max(ways["prompt"].values()), "tokens_per_second": max(ways["decode"].values()),
            "bytes_per_token": rounds[0]["bytes_per_token"], "ways": ways}


def report_ways(rows):
    print("  the fastest way of llama.cpp counts; tok/s:")
    for row in THEIRS:
        for phase, rates in rows[row]["ways"].items():
            counted, *others = (f"{way} {rate:.1f}" for way, rate in rates.items())
            print(f"    {row}, {phase}: {counted} counts; {'; '.join(others)}")


def report(name, prompt_tokens, rows, options):
    print(f"\n{name}: {options.texts} text(s), a prompt of {prompt_tokens} tokens, {options.new_tokens} decoded, {options.threads} threads, "
          f"best of {options.rounds} rounds")
    print(f"  {'':30}{'prompt tok/s':>14}{'decode tok/s':>14}{'MB/token':>10}{'GB/s read':>11}{'GB/s possible':>15}")
    for row, found in rows.items():
        read = found["tokens_per_second"] * found["bytes_per_token"]
        possible = f"{found['read_bandwidth'] / 1e9:15.1f}" if "read_bandwidth" in found else ""
        print(f"  {row:30}{found['prompt_tokens_per_second']:14.1f}{found['tokens_per_second']:14.1f}"
              f"{found['bytes_per_token'] / 1e6:10.1f}{read / 1e9:11.1f}{possible}")
    report_ways(rows)
    ratios = {}
    for ours in OURS:
        ratios[ours] = {theirs: {"prompt": rows[ours]["prompt_tokens_per_second"] / rows[theirs]["prompt_tokens_per_second"],
                                 "decode": rows[ours]["tokens_per_second"] / rows[theirs]["tokens_per_second"]} for theirs in THEIRS}
    print(f"  {'times as fast as':30}" + "".join(f"{theirs:>30}" for theirs in THEIRS))
    for ours, against in ratios.items():
        cells = (f"prompt {ratio['prompt']:.2f}, decode {ratio['decode']:.2f}" for ratio in against.values())
        print(f"  {ours:30}" + "".join(f"{cell:>30}" for cell in cells))
    return {"case": name, "prompt_tokens": prompt_tokens, "new_tokens": options.new_tokens, "texts": options.texts,
            "threads": options.threads, "rows": rows,
            "ratios": ratios}


def compare(name, options):
    """All rows behind each of the prompts, in turn."""
    config = ROOT / CASES[name]
    shape = read_shape(config)
    files = prepare(name, shape, options)
    rounds = {tokens: {row: [] for row in (*THEIRS, *OURS)} for tokens in options.prompt_tokens}
    for number in range(options.rounds):
        for tokens, found in rounds.items():
            print(f"{name}: round {number + 1} of {options.rounds}, a prompt of {tokens} tokens", file=sys.stderr)
            for row, file in files.items():
                found[row].append(measure_theirs(file, shape, tokens, options))
            for row, words in OURS.items():
                found[row].append(measure_ours(words, config, tokens, options))
    return [report(name, tokens, {row: (fastest if row in THEIRS else best)(every) for row, every in found.items()}, options)
            for tokens, found in rounds.items()]


def lengths(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="how often all run, in turn")
    parser.add_argument("--prompt-tokens", type=lengths, default=[64, 512], metavar="N[,N...]", help="prompts to decode behind")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--texts", type=int, default=1, help="texts that are decoded together, as for a server's clients")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", default=sys.executable, help="Python with numpy for llama.cpp")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder that holds the package llama_cpp")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench-inference", help="folder for llama.cpp's models")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/fbi-run")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    for name in options.cases:
        if name not in CASES:
            parser.error(f"unknown case {name}; choose from {', '.join(CASES)}")
    options.work.mkdir(parents=True, exist_ok=True)
    results = [result for name in options.cases or CASES for result in compare(name, options)]
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
