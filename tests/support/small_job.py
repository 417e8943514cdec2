"""A training job of seconds, for tests that run the whole program on several ranks."""
import json

SEQ_LEN, VOCAB, GLOBAL_BATCH = 16, 320, 8
OF_THE_MACHINE = ("step_seconds", "phase_seconds", "cpu_seconds", "tokens_per_second", "flops_per_second", "recompute_flops_per_second",
                  "matrix_share", "peak_memory_bytes", "peak_device_memory_bytes", "memory_bytes")  # metrics that differ from run to run

CONFIG = {
    "model": {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "data": {"format": "amber", "paths": ["samples.jsonl"]},
    "objective": {"next_token": 1.0, "distill": 0.0},
    "optimizer": {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2},
    "train": {"seq_len": SEQ_LEN, "global_batch": GLOBAL_BATCH, "micro_batch": 2, "device": "cpu"},
    "checkpoint": {"every_steps": 1000, "keep": 2},
}


def write_job(folder, steps, samples=500):
    """Writes config.json and samples.jsonl, of ids below 303."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, "train": {**CONFIG["train"], "steps": steps}}))
    ids = [[1] + [3 + (i * i + 7 * j) % 300 for j in range(SEQ_LEN)] for i in range(samples)]
    (folder / "samples.jsonl").write_text("".join(json.dumps({"token_ids": line}) + "\n" for line in ids))


def steps_done(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def what_was_computed(run_dir):
    """The metrics without what the machine adds."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in lines]
