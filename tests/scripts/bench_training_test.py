"""The training benchmark's tables and figures, with a stand-in for the programs that it times."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench/bench_training.py"

# As `fbi-llm train`: 1 ms per token and 10 GFLOP/token, dense weights; one-bit weights take 2 % more. The first two steps take 9 s.
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
words = sys.argv[1:]
if "train" in words:
    config = json.loads(pathlib.Path(words[words.index("--config") + 1]).read_text())
    for change in [words[i + 1] for i, word in enumerate(words) if word == "--set"]:
        section, rest = change.split(".", 1)
        key, value = rest.split("=", 1)
        config[section][key] = value
    train = config["train"]
    tokens = train["global_batch"] * train["seq_len"]
    usual = 0.001 * tokens * (1 if config["model"]["binarize"] == "none" else 1.02)
    run = pathlib.Path(words[words.index("--run-dir") + 1])
    run.mkdir()
    lines = [dict(step_seconds=seconds, cpu_seconds=2 * seconds, flops_per_second=tokens * 10e9 / seconds, matrix_share=0.5,
                  peak_memory_bytes=3e9, memory_bytes=dict(rest=3e9))
             for seconds in [9] * 2 + [usual] * (train["steps"] - 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    (run / "environment.json").write_text(json.dumps(dict(parameters=7_000_000, matrix_flops_per_second=dict(fp32=20e12))))
"""


class BenchTraining(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.folder / "program"
        self.program.write_text(STAND_IN)
        self.program.chmod(0o755)

    def bench(self, *words):
        out = self.folder / "out.json"
        done = subprocess.run([sys.executable, BENCH, *words, "--program", self.program, "--python", self.program, "--work",
                               self.folder / "work", "--json", out], capture_output=True, text=True)
        return done, json.loads(out.read_text()) if out.exists() else None

    def test_scaling_shows_what_a_token_costs(self):
        done, rows = self.bench("--scaling", "256x6", "512x8-4096")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"256x6 +7\.0M +1024 +10\.000 +1\.020 +0\.20 +9803\.9 +50%")
        self.assertRegex(done.stdout, r"512x8-4096 +7\.0M +4096 +10\.000 +1\.020 +0\.20 +9803\.9 +50%")
        self.assertEqual([row["tokens_per_step"] for row in rows], [1024, 4096])
        self.assertAlmostEqual(rows[0]["flops_per_token"], 10e9)
        self.assertEqual(rows[0]["matrix_flops_per_second"], {"fp32": 20e12})

    def test_binarization_is_shown_as_a_ratio_to_dense_weights(self):
        done, rows = self.bench("--binarization", "--rounds", "1", "--steps", "4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("S: 10 micro-steps, 20480 tokens per step", done.stdout)
        self.assertRegex(done.stdout, r"dense +20\.480 +1\.000 +40\.960 +1\.000 +3\.00")
        self.assertRegex(done.stdout, r"binarized, products dense +20\.890 +1\.020")
        self.assertAlmostEqual(rows[0]["figures"]["binarized, default"]["step_seconds_ratio"], 1.02)

    def test_what_does_not_fit_together_is_refused(self):
        for words, message in ((["--scaling", "S"], "unknown case S; choose from 256x6"),
                               (["256x6"], "unknown case 256x6; choose from S, M"),
                               (["--scaling", "--binarization"], "not allowed with")):
            with self.subTest(words):
                done, rows = self.bench(*words)
                self.assertEqual((done.returncode, rows), (2, None))
                self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
