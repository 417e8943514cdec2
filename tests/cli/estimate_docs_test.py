"""The figures of docs/estimate.md and docs/own-model.md are what `fbi-llm estimate` computes.

Usage: estimate_docs_test.py PATH-OF-FBI-LLM [unittest arguments]."""
import json
import pathlib
import re
import subprocess
import sys
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = None


def estimate(config, gpus, teacher="configs/7b.json", memory="80G", settings=()):
    words = [PROGRAM, "estimate", "--config", config, "--gpus", gpus, "--gpu-memory", memory, "--teacher", teacher, "--json"]
    words += [word for setting in settings for word in ("--set", setting)]
    return json.loads(subprocess.run(list(map(str, words)), cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60).stdout)


def gigabytes(number):
    return f"{number / 1e9:.1f} GB" if number else "none"


def peak(found):
    return gigabytes(found["memory"]["peak"]["total"])


class Estimate(unittest.TestCase):
    TEXT = (REPOSITORY / "docs/estimate.md").read_text()

    def test_table_of_presets(self):
        rows = re.findall(r"^\| (\S+) \| (\d+)(?: \((\d+) GB\))? \| (\S+ GB) \| (\w+) \| ([^|]+) \| (\d+) % \|$", self.TEXT, re.M)
        self.assertEqual(len(rows), 6)
        for preset, gpus, memory, *row in rows:
            with self.subTest(preset=preset, gpus=gpus):
                found = estimate(f"configs/{preset}.json", gpus, memory=f"{memory or 80}G")
                flops = found["flops_per_token"]
                share = f"{100 * flops['teacher'] / flops['total']:.0f}"
                self.assertTrue(found["fit"]["fits"], "a preset has to fit the GPUs that it is for")
                self.assertEqual(row, [peak(found), found["memory"]["peak_phase"], gigabytes(found["traffic"]["total"]), share])

    def test_sentences(self):
        flops = estimate("configs/7b.json", 32)["flops_per_token"]
        student, recompute = ((flops["total"] - left_out) / 1e9 for left_out in (flops["recompute"], 0))
        self.assertIn(f"For 7B with a 7B teacher: {student:.1f} GFLOP, {recompute:.1f} with recompute.", self.TEXT)
        found = estimate("configs/130m.json", 4, settings=["teacher.micro_batch=1"])
        self.assertIn(f"`teacher.micro_batch=1` brings the first row to {peak(found)}, in {found['memory']['peak_phase']}.", self.TEXT)


class OwnModel(unittest.TestCase):
    def test_what_fits_into_24_gb(self):
        text = (REPOSITORY / "docs/own-model.md").read_text()
        rows = re.findall(r"^\| `(configs/\S+)` \| `(configs/\S+)` \| ([^|]+) \| (\S+ GB) \|$", text, re.M)
        self.assertEqual(len(rows), 9)
        for config, teacher, settings, expected in rows:
            with self.subTest(config=config, teacher=teacher, settings=settings):
                found = estimate(config, 1, teacher, "24G", re.findall(r"`(\S+=\S+)`", settings))
                self.assertEqual(peak(found), expected)
                self.assertEqual(found["fit"]["fits"], "GB" not in settings)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
