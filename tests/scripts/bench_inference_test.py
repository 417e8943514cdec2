"""The inference benchmark's cases and ratios, with a stand-in for the programs that it times."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench/bench_inference.py"

# As Python with llama.cpp: writes the model asked for, decodes 10 tokens/s from F16 and 20 from one bit, with flash attention half as
# many behind a long prompt and a tenth more behind a short one. As `fbi-run bench`: 60.
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
words = sys.argv[1:]
if "--out" in words:
    pathlib.Path(words[words.index("--out") + 1]).write_text("model")
elif "--measure" in words:
    rate = 10 if words[words.index("--model") + 1].endswith("F16.gguf") else 20
    flash = 0.5 if int(words[words.index("--prompt-tokens") + 1]) > 64 else 1.1
    prompt = {{"plain attention, passes of 64": 75, "flash attention, passes of 64": 100, "flash attention, passes of 512": 80}}
    print(json.dumps(dict(prompt=prompt, decode={{"plain attention": rate, "flash attention": flash * rate}}, model_bytes=10**9)))
else:
    print(json.dumps([dict(prompt_tokens_per_second=300, tokens_per_second=60, bytes_per_token=10**8, read_bandwidth=1e10)]))
"""


class Benchmark(unittest.TestCase):
    def run_bench(self, *arguments):
        with tempfile.TemporaryDirectory() as name:
            stand_in = pathlib.Path(name) / "stand-in"
            stand_in.write_text(STAND_IN)
            stand_in.chmod(0o755)
            figures = pathlib.Path(name) / "figures.json"
            result = subprocess.run([sys.executable, BENCH, "--python", stand_in, "--program", stand_in, "--llama-cpp", name,
                                     "--work", pathlib.Path(name) / "work", "--rounds", "1", "--json", figures, *arguments],
                                    capture_output=True, text=True)
            return result, json.loads(figures.read_text()) if figures.exists() else None

    def test_without_a_case_all_run(self):
        result, figures = self.run_bench()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([(one["case"], one["prompt_tokens"]) for one in figures],
                         [("130m", 64), ("130m", 512), ("1.3b", 64), ("1.3b", 512)])

    def test_the_fastest_way_of_llama_cpp_counts_of_each_phase(self):
        result, (figures,) = self.run_bench("130m", "--prompt-tokens", "512")
        self.assertEqual(result.returncode, 0, result.stderr)
        ratios = figures["ratios"]["exact, fp16 head"]
        self.assertEqual((ratios["llama.cpp F16"]["decode"], ratios["llama.cpp Q1_0"]["decode"]), (6, 3))
        self.assertEqual(ratios["llama.cpp F16"]["prompt"], 3)
        self.assertIn("llama.cpp F16, prompt: flash attention, passes of 64 100.0 counts; flash attention, passes of 512 80.0; "
                      "plain attention, passes of 64 75.0\n", result.stdout)
        self.assertIn("llama.cpp F16, decode: plain attention 10.0 counts; flash attention 5.0\n", result.stdout)
        self.assertEqual(list(figures["rows"]["llama.cpp Q1_0"]["ways"]["decode"].items()),
                         [("plain attention", 20), ("flash attention", 10)])

    def test_lengths_of_prompts(self):
        result, figures = self.run_bench("130m", "--prompt-tokens", "16,600")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([one["prompt_tokens"] for one in figures], [16, 600])
        counted = [next(iter(one["rows"]["llama.cpp F16"]["ways"]["decode"])) for one in figures]
        self.assertEqual(counted, ["flash attention", "plain attention"])
        result, _ = self.run_bench("130m", "--prompt-tokens", "16,long")
        self.assertEqual(result.returncode, 2)
        self.assertIn("invalid lengths value: '16,long'", result.stderr)

    def test_unknown_case(self):
        result, _ = self.run_bench("7b")
        self.assertEqual(result.returncode, 2)
        self.assertIn("unknown case 7b; choose from 130m, 1.3b", result.stderr)


if __name__ == "__main__":
    unittest.main()
