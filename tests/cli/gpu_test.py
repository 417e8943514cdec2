"""fbi-llm and fbi-run with two emulated GPUs (tests/ops/gpu_on_cpu).
Usage: gpu_test.py PATH-OF-FBI-LLM PATH-OF-FBI-RUN [unittest arguments]"""
import http.client
import json
import pathlib
import re
import subprocess
import sys
import unittest

import program
from program import DISTILL, WORK, metrics, run, setUpModule, tearDownModule, train, what_was_computed  # noqa: F401

ON_GPU = {"train.device": "cuda", "train.steps": 3}
ON_CPU = {**ON_GPU, "train.device": "cpu", "train.sign_products": "dense"}
FBI_RUN = None


def run_packed(*words):
    return subprocess.run([FBI_RUN, *map(str, words)], cwd=WORK, check=True, capture_output=True, text=True).stdout


class OnAGpu(unittest.TestCase):
    def assert_same_losses(self, found, expected, tolerance):
        self.assertEqual(len(metrics(found)), len(metrics(expected)))
        for one, other in zip(metrics(found), metrics(expected)):
            self.assertAlmostEqual(one["loss"], other["loss"], delta=tolerance * other["loss"])

    def test_training_agrees_with_the_cpu(self):
        train("cpu", changes={**DISTILL, **ON_CPU})
        train("gpu", "--profile-steps", 2, changes={**DISTILL, **ON_GPU})
        self.assert_same_losses("gpu", "cpu", 1e-4)
        line = metrics("gpu")[-1]
        self.assertGreater(line["peak_device_memory_bytes"], 0)
        trace = json.loads((WORK / "gpu/trace.json").read_text())
        self.assertTrue({"teacher", "forward", "loss", "backward", "update"} <= {event.get("cat") for event in trace["traceEvents"]})

    def test_evaluation_during_a_run_and_memory_options(self):
        held_out = {"evaluation.every_steps": 3, "evaluation.max_windows": 2, "evaluation.tokens": '["data/valid-00000.tokens"]'}
        plain = {**DISTILL, **ON_GPU, **held_out}
        train("plain", changes=plain)
        for name, changes in {"recompute": {"train.recompute": True}, "step": {"train.working_copy": "step"},
                              "parts": {"teacher.micro_batch": 1}}.items():
            train(name, changes={**plain, **changes})
            self.assert_same_losses(name, "plain", 1e-5)
        train("bf16", changes={**plain, "train.precision": "bf16", "teacher.dtype": "fp8"})
        self.assert_same_losses("bf16", "plain", 0.05)

    def test_a_model_is_measured_and_written_from_alike(self):
        def perplexity(*words):
            return json.loads(run("eval", "perplexity", "--model", "student", "--tokens", "data/valid-00000.tokens", "--json", *words))["perplexity"]
        expected = perplexity("--device", "cpu", "--dtype", "fp32")
        for dtype, tolerance in {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.02}.items():
            self.assertAlmostEqual(perplexity("--device", "cuda", "--dtype", dtype), expected, delta=tolerance * expected)
        words = ("generate", "--model", "student", "--prompt", "Once upon a time", "--max-new-tokens", 12, "--temperature", 0, "--dtype", "fp32")
        self.assertEqual(run(*words, "--device", "cuda"), run(*words, "--device", "cpu"))

    def test_a_packed_model_runs_and_is_served(self):
        run("export", "--checkpoint", "student", "--format", "packed", "--out", "packed")
        words = ("generate", "--model", "packed", "--prompt", "One day, ", "--max-new-tokens", 12, "--temperature", 1, "--seed", 7, "--json")
        expected, found = (json.loads(run_packed(*words, "--device", device))["text"] for device in ("cpu", "cuda"))
        self.assertEqual(found, expected)
        self.assertIn("tokens/s", run_packed("bench", "--model", "packed", "--device", "cuda", "--prompt-tokens", 8, "--new-tokens", 4))
        server = subprocess.Popen([FBI_RUN, "serve", "--model", "packed", "--port", "0", "--device", "cuda"], cwd=WORK, stderr=subprocess.PIPE,
                                  text=True)
        self.addCleanup(server.kill)
        port = next(int(found.group(1)) for found in (re.search(r"listening on http://127\.0\.0\.1:(\d+)", line) for line in server.stderr) if found)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "One day, ", "max_tokens": 12, "temperature": 1, "seed": 7}))
        text = json.loads(connection.getresponse().read())["choices"][0]["text"]
        connection.close()
        server.terminate()
        server.stderr.close()
        self.assertEqual(server.wait(600), 0)
        self.assertEqual(text, expected)
        self.assertTrue(text.strip())

    def test_ranks_meet_over_nccl(self):
        changes = {**DISTILL, **ON_GPU, "optimizer.schedule_micro_steps": 2}
        train("one", changes=changes)
        run("launch", "--nproc", 2, "--", *program.train_words("two", changes=changes))
        self.assert_same_losses("two", "one", 1e-5)
        run("launch", "--nproc", 2, "--", *program.train_words("again", changes=changes))
        self.assertEqual(what_was_computed("again"), what_was_computed("two"))


if __name__ == "__main__":
    FBI_RUN = str(pathlib.Path(sys.argv.pop(2)).resolve())
    program.main()
