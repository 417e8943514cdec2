"""fbi-llm and its verbs on a GPU: with emulated ones (tests/ops/gpu_on_cpu), and in builds for real ones on those that are there.
Usage: gpu_test.py PATH-OF-FBI-LLM GPUS [unittest arguments]"""
import json
import sys
import unittest

import program
from program import DISTILL, WORK, metrics, run, setUpModule, tearDownModule, train, what_was_computed  # noqa: F401

ON_GPU = {"train.device": "cuda", "train.steps": 3}
ON_CPU = {**ON_GPU, "train.device": "cpu", "train.sign_products": "dense"}
GPUS = 0


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

    def test_ranks_meet_over_nccl(self):
        if GPUS < 2:
            self.skipTest("needs 2 GPUs")
        changes = {**DISTILL, **ON_GPU, "optimizer.schedule_micro_steps": 2}
        train("one", changes=changes)
        run("launch", "--nproc", 2, "--", *program.train_words("two", changes=changes))
        self.assert_same_losses("two", "one", 1e-5)
        run("launch", "--nproc", 2, "--", *program.train_words("again", changes=changes))
        self.assertEqual(what_was_computed("again"), what_was_computed("two"))


if __name__ == "__main__":
    GPUS = int(sys.argv.pop(2))
    program.main()
