"""scripts/to_tensorboard.py, read back by TensorBoard's own reader.

Usage: to_tensorboard_test.py PATH-OF-FBI-LLM [unittest arguments].  Uses the interpreter of transformers_test.py; without it, or
without the package tensorboard in it, exits with 77: skipped."""
import contextlib
import errno
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts/to_tensorboard.py"
sys.path.insert(0, str(REPOSITORY / "tests/support"))

if __name__ == "__main__":
    import interpreter

    interpreter.use_interpreter_with_transformers()
    if importlib.util.find_spec("tensorboard") is None:
        print("skipped: this Python has no tensorboard; scripts/deps.sh --python-tests installs it")
        sys.exit(77)

sys.path.insert(0, str(SCRIPT.parent))
import small_job  # noqa: E402
import to_tensorboard  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

PROGRAM = None
logging.getLogger("tensorboard").setLevel(logging.ERROR)  # the reader tells whenever it forgets points


def fp32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def metrics_line(step, loss, **more):
    return json.dumps({"step": step, "loss": loss, "step_seconds": 0.5, **more}) + "\n"


class ToTensorBoard(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="fbi-python-test-")
        self.folder = pathlib.Path(self.temporary.name)
        self.addCleanup(self.temporary.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)

    def write_run(self, text, name="a"):
        path = self.folder / name / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def convert(self, *words):
        """What the script prints."""
        printed = io.StringIO()
        self.addCleanup(setattr, threading, "excepthook", threading.excepthook)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), unittest.mock.patch.object(sys, "argv", ["to_tensorboard.py", *words, "--out", "tb"]):
            to_tensorboard.main()
        return printed.getvalue()

    def refuse(self, *words):
        with self.assertRaises(SystemExit) as refused:
            self.convert(*words)
        return refused.exception.code  # a message: exit code 1

    def curves(self, name="a"):
        """What TensorBoard shows: by tag, the points as (step, value)."""
        reader = EventAccumulator(str(self.folder / "tb" / name), size_guidance={"scalars": 0})
        reader.Reload()
        return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}

    def wall_times(self, name="a"):
        reader = EventAccumulator(str(self.folder / "tb" / name))
        reader.Reload()
        return [point.wall_time for point in reader.Scalars("train/loss")]

    def test_a_real_run(self):
        small_job.write_job(self.folder, steps=4)
        done = subprocess.run([PROGRAM, "train", "--config", "config.json", "--run-dir", "runs/a", "--set", "evaluation.every_steps=2",
                               "--set", 'evaluation.tokens=["samples.jsonl"]', "--set", "evaluation.max_windows=2"],
                              cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.convert("runs/a")
        lines = [json.loads(line) for line in (self.folder / "runs/a/metrics.jsonl").read_text().splitlines()]
        curves = self.curves()

        def points(value_of):
            return [(line["step"], fp32(value_of(line))) for line in lines]

        self.assertEqual(len(lines), 4)
        for tag, key in (("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("train/lr", "lr"), ("signs/flips", "flips"),
                         ("signs/flip_rate", "flip_rate"), ("speed/tokens_per_second", "tokens_per_second"),
                         ("memory/peak_memory_bytes", "peak_memory_bytes")):
            self.assertEqual(curves[tag], points(lambda line, key=key: line[key]), tag)
        self.assertEqual(curves["phase_seconds/backward"], points(lambda line: line["phase_seconds"]["backward"]))
        self.assertEqual(curves["memory/latent"], points(lambda line: line["memory_bytes"]["latent"]))
        self.assertEqual(curves["eval/perplexity/samples"],
                         [(line["step"], fp32(line["evaluation"]["samples"]["perplexity"])) for line in lines[1::2]])
        self.assertNotIn("train/loss_distill", curves)  # null in every line
        weights = {name: rate for name, rate in lines[-1]["layer_flip_rates"].items() if ".layers.1." in name}
        self.assertEqual(len(weights), 7)
        self.assertAlmostEqual(curves["flip_rate_of/layer_1"][-1][1], sum(weights.values()) / 7)
        rates = [lines[-1]["layer_flip_rates"][f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(2)]
        self.assertAlmostEqual(curves["flip_rate_of/up_proj"][-1][1], sum(rates) / 2)
        self.assertGreater(sum(rates), 0)  # otherwise the comparison says nothing

    def test_every_documented_key_is_a_curve_or_left_out_knowingly(self):
        section = (REPOSITORY / "docs/formats.md").read_text().split("\n## metrics.jsonl\n")[1].split("\n## ")[0]
        keys = {key for row in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
        shown = {*to_tensorboard.TAGS, *to_tensorboard.TABLES, "layer_flip_rates", "evaluation"}
        self.assertEqual(keys - shown, {"step", "sample_first", "sample_count"})
        self.assertEqual(shown - keys, set())

    def test_of_repeated_steps_the_later_ones_count(self):
        steps = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (3, 30), (4, 40)]
        self.write_run("".join(metrics_line(step, loss) for step, loss in steps))
        self.assertIn("4 steps of a/metrics.jsonl", self.convert("a"))
        self.assertEqual(self.curves()["train/loss"], [(1, 1), (2, 2), (3, 30), (4, 40)])

    def test_null_and_a_line_that_is_being_written_are_no_points(self):
        self.write_run(metrics_line(1, 1, matrix_share=None) + metrics_line(2, None, matrix_share=0.5, skipped=True) + metrics_line(3, 3)[:-1])
        self.convert("a")
        self.assertEqual(self.curves(), {"train/loss": [(1, 1)], "speed/mfu": [(2, 0.5)], "train/skipped": [(2, 1)],
                                         "speed/step_seconds": [(1, 0.5), (2, 0.5)]})

    def test_time_is_that_of_training_and_ends_with_the_file(self):
        metrics = self.write_run("".join(metrics_line(step, step) for step in (1, 2, 3)))
        os.utime(metrics, (1000, 1000))
        self.convert("a")
        self.assertEqual(self.wall_times(), [999, 999.5, 1000])

    def test_converting_again_doubles_nothing(self):
        self.write_run(metrics_line(1, 1) + metrics_line(2, 2), "x/a")
        self.write_run(metrics_line(1, 7), "y/a")
        for _ in range(2):
            self.convert("x/a", "y/a/metrics.jsonl", "x/../x/a")
        (self.folder / "tb/x/a/events.out.tfevents.1.other").write_text("")
        self.convert("x/a", "y/a")
        self.assertEqual(self.curves("x/a")["train/loss"], [(1, 1), (2, 2)])
        self.assertEqual(self.curves("y/a")["train/loss"], [(1, 7)])
        names = sorted(path.name for path in (self.folder / "tb/x/a").iterdir())
        self.assertEqual((len(names), names[0]), (3, "events.out.tfevents.1.other"))  # and the emptied one before ours

    def test_files_of_one_folder_are_runs_of_their_own(self):
        before = self.write_run(metrics_line(1, 7)).rename("a/metrics-before-restart-1.jsonl")
        self.write_run(metrics_line(1, 1))
        self.convert("a", str(before))
        self.assertEqual(self.curves("a/metrics-before-restart-1.jsonl")["train/loss"], [(1, 7)])
        losses = EventAccumulator(str(next((self.folder / "tb/a").glob("events*"))))
        losses.Reload()
        self.assertEqual([point.value for point in losses.Scalars("train/loss")], [1])

    def test_names_of_runs(self):
        for name in ("x/a", "x/b", "y/a", "x/a/a"):
            self.write_run("", name)
        pathlib.Path("x/a/old.jsonl").touch()

        def names(*runs):
            return [name for _, name in to_tensorboard.metrics_files([pathlib.Path(run) for run in runs])]
        self.assertEqual(names("x/a", "x/b/metrics.jsonl", "x/a/old.jsonl", "x/../x/b"), ["a", "b", "a/old.jsonl"])
        self.assertEqual(names("x/a", "y/a", "x/a/old.jsonl"), ["x/a", "y/a", "x/a/old.jsonl"])
        self.assertEqual(names("x/a", "x/a/a"), ["a", "a/a"])

    def test_a_run_without_steps_does_not_keep_others_waiting(self):
        self.write_run("", "empty")
        (self.folder / "begun").mkdir()
        (self.folder / "begun/environment.json").touch()
        self.write_run(metrics_line(1, 1))
        printed = self.convert("empty", "begun", "a")
        for name in ("empty", "begun"):
            self.assertIn(f"{name}/metrics.jsonl has no steps yet", printed)
        self.assertEqual(self.curves()["train/loss"], [(1, 1)])

    def test_a_full_disk_is_an_error_without_traceback(self):
        self.write_run("".join(metrics_line(step, 1) for step in range(1000)))
        self.write_run("".join(metrics_line(step, 1) for step in range(1000)), "b")
        done = subprocess.run([sys.executable, SCRIPT, "a", "b", "--out", "tb"], cwd=self.folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)))
        self.assertEqual((done.returncode, done.stdout), (1, "cannot write into tb: File too large; run this again when that is mended\n"))

    def test_a_disk_that_is_full_at_the_end_is_an_error_too(self):
        self.write_run(metrics_line(1, 1))
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        library = to_tensorboard.load_library()
        with unittest.mock.patch.object(library.EventFileWriter, "close", side_effect=full):
            self.assertIn("cannot write into tb: No space left on device", self.refuse("a"))

    def test_a_run_that_goes_on_and_back(self):
        metrics = self.write_run(metrics_line(1, 1) + metrics_line(2, 2))
        run = to_tensorboard.Run(metrics, self.folder / "tb/a", to_tensorboard.load_library())
        self.addCleanup(run.close)
        silence = contextlib.ExitStack()
        self.addCleanup(silence.close)
        silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
        self.assertEqual(run.update(), 2)
        reader = EventAccumulator(str(self.folder / "tb/a"))  # stays open, as TensorBoard does

        def losses():
            reader.Reload()
            self.assertEqual(self.curves()["train/loss"], [(point.step, point.value) for point in reader.Scalars("train/loss")])
            return self.curves()["train/loss"]

        self.assertEqual(losses(), [(1, 1), (2, 2)])
        with metrics.open("a") as file:
            file.write(metrics_line(3, 3) + metrics_line(4, 4)[:9])
        self.assertEqual((run.update(), losses()), (1, [(1, 1), (2, 2), (3, 3)]))
        with metrics.open("a") as file:
            file.write(metrics_line(4, 4)[9:])
        self.assertEqual((run.update(), losses()), (1, [(1, 1), (2, 2), (3, 3), (4, 4)]))
        self.assertEqual(run.update(), 0)
        # Continued from a checkpoint of step 1; then from one of step 2 until it is longer than before; then appended without a cut.
        metrics.write_text(metrics_line(1, 1) + metrics_line(2, 20))
        self.assertEqual((run.update(), losses()), (2, [(1, 1), (2, 20)]))
        metrics.write_text(metrics_line(1, 1) + metrics_line(2, 21) + metrics_line(3, 31))
        self.assertEqual((run.update(), losses()), (3, [(1, 1), (2, 21), (3, 31)]))
        with metrics.open("a") as file:
            file.write(metrics_line(2, 22))
        self.assertEqual((run.update(), losses()), (2, [(1, 1), (2, 22)]))
        self.convert("a")  # as another process would
        with self.assertRaisesRegex(SystemExit, "does another to_tensorboard.py write into"):
            run.update()
        self.assertEqual(losses(), [(1, 1), (2, 22)])

    def test_follow_waits_for_the_first_step_and_ends_on_control_c(self):
        (self.folder / "a").mkdir()
        following = subprocess.Popen([sys.executable, SCRIPT, "a", "--out", "tb", "--follow"], cwd=self.folder, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)
        self.addCleanup(following.kill)
        while "following" not in (line := following.stdout.readline()):
            self.assertTrue(line, following.poll())
        self.write_run(metrics_line(1, 1))
        while not (self.folder / "tb/a").exists() or not self.curves():
            self.assertIsNone(following.poll())
            time.sleep(0.05)
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate()
        self.assertEqual((following.returncode, errors), (0, ""))
        self.assertEqual(self.curves()["train/loss"], [(1, 1)])

    def test_refusals(self):
        self.assertIn("cannot read b; expected a run directory or a metrics.jsonl", self.refuse("b"))
        self.write_run("", "b")
        self.assertIn("nothing to write; --follow waits for the first step", self.refuse("b"))
        for damage in ("{}\n", '{"step": "1"}\n', "[" * 100000 + "\n", '{"step": 2,\n'):
            self.write_run(metrics_line(1, 1) + damage)
            self.assertIn("a/metrics.jsonl:2: not a line of metrics", self.refuse("a"))
        self.assertFalse((self.folder / "tb").exists())
        (self.folder / "tb").touch()
        self.write_run(metrics_line(1, 1))
        self.assertRegex(self.refuse("a"), "Not a directory: 'tb/a'")

    def test_without_the_package_it_says_how_to_install_it(self):
        self.write_run(metrics_line(1, 1))
        (self.folder / "tensorboard.py").touch()
        for words, code, text in (("a", 1, "python3 -m pip install tensorboard"), ("--help", 0, "--follow")):
            done = subprocess.run([sys.executable, SCRIPT, words, "--out", "tb"], env={**os.environ, "PYTHONPATH": str(self.folder)},
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual(done.returncode, code)
            self.assertIn(text, done.stdout)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
