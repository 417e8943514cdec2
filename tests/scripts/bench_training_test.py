"""The training benchmark's tables and figures, with a stand-in for the programs that it times."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench/bench_training.py"

# As `fbi-llm train`: 1 ms per token and 10 GFLOP/token, dense weights; one-bit weights take 2 % more. The first two steps take 9 s.
# As Python with the baseline: 4 s by the clock, 1.6 of the processor, three quarters of both where memory is kept, a fifth more with
# something preloaded.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
words = sys.argv[1:]
if "--student" in words:
    share = 0.75 if "MALLOC_TRIM_THRESHOLD_" in os.environ else 1.2 if "LD_PRELOAD" in os.environ else 1
    print(json.dumps(dict(step_seconds=[4 * share] * 3, cpu_seconds=[1.6 * share] * 3, peak_memory_bytes=6e9)))
    pathlib.Path(words[0]).is_file() or sys.exit("no such baseline")
    pathlib.Path(sys.argv[0] + ".baseline").write_text(" ".join(words))
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
                  phase_seconds=dict(teacher=seconds / 4, forward=seconds * 3 / 4), peak_memory_bytes=3e9,
                  peak_device_memory_bytes=2e9, memory_bytes=dict(rest=3e9))
             for seconds in [9] * 2 + [usual] * (train["steps"] - 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    pathlib.Path(sys.argv[0] + ".config").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps(dict(parameters=7_000_000, matrix_flops_per_second=dict(fp32=232e9))))
"""


class BenchTraining(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.folder / "program"
        self.program.write_text(STAND_IN)
        self.program.chmod(0o755)

    def bench(self, *words, path=os.environ["PATH"]):
        out = self.folder / "out.json"
        done = subprocess.run([sys.executable, BENCH, *words, "--program", self.program, "--python", self.program, "--work",
                               self.folder / "work", "--json", out], capture_output=True, text=True,
                              env={**os.environ, "PATH": path})
        return done, json.loads(out.read_text()) if out.exists() else None

    def config_of_ours(self):
        return json.loads(pathlib.Path(f"{self.program}.config").read_text())

    def words_of_baseline(self):
        return pathlib.Path(f"{self.program}.baseline").read_text().split()

    def test_both_read_one_teacher_as_its_file_holds_it(self):
        for case, device, name in (("M", "cpu", "teacher-float16-32000-1024-2816-16-16-512"),
                                   ("GPU-1.3B", "cuda", "teacher-bfloat16-32000-2048-5632-24-32-2048")):
            with self.subTest(case):
                done, _ = self.bench(case, "--device", device, "--rounds", "1", "--steps", "3")
                self.assertEqual(done.returncode, 0, done.stderr)
                words, teacher = self.words_of_baseline(), str(self.folder / "work" / name)
                self.assertEqual(words[words.index("--teacher") + 1], teacher)
                self.assertEqual(self.config_of_ours()["teacher"], {"path": teacher})

    def test_ours_stands_beside_the_baseline_with_its_fastest_allocator(self):
        done, rows = self.bench("S", "--rounds", "1", "--steps", "4", "--threads", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.config_of_ours()["checkpoint"], {"every_steps": 0, "at_end": False})
        self.assertRegex(done.stdout, r"ours +980\.4 +4\.178 +3\.00\n")
        self.assertIn("its arithmetic at 0.50 of the measured rate of matrix products (fp32 232 GFLOP/s)", done.stdout)
        self.assertIn("seconds of a step: teacher 0.522, forward 1.567\n", done.stdout)
        self.assertRegex(done.stdout, r"PyTorch baseline, glibc +512\.0 +1\.600 +6\.00\n")
        self.assertRegex(done.stdout, r"PyTorch baseline, glibc, freed memory kept +682\.7 +1\.200 +6\.00\n")
        self.assertIn("compared with its fastest allocator: glibc, freed memory kept\n", done.stdout)
        self.assertIn("ours is 1.44x as fast, 0.29x by processor time, at 0.50x of the memory\n", done.stdout)
        self.assertIn("0.76x of the published processor time: it counts (at most 1.1)", done.stdout)
        self.assertIn("116 GFLOP/s here, 145 there; at equal rates it would be 0.61x", done.stdout)
        (row,) = rows
        self.assertEqual((row["counts"], row["baseline"]["allocator"]), (True, "glibc, freed memory kept"))
        self.assertEqual(row["baselines"]["glibc"]["cpu_seconds"], 1.6)
        self.assertEqual(row["ours"]["phase_seconds"].keys(), {"teacher", "forward"})
        self.assertEqual(row["ours"]["matrix_share"], 0.5)

    def test_a_slow_baseline_does_not_count(self):
        self.program.write_text(self.program.read_text().replace("[1.6 * share]", "[3 * share]"))
        done, rows = self.bench("S", "--rounds", "1", "--steps", "3", "--threads", "2")
        self.assertIn("1.43x of the published processor time: it does not count (at most 1.1)", done.stdout)
        self.assertIs(rows[0]["counts"], False)

    def test_a_run_too_short_to_measure_the_machine_is_compared_all_the_same(self):
        text = self.program.read_text().replace("matrix_share=0.5", "matrix_share=None")
        self.program.write_text(text.replace(", matrix_flops_per_second=dict(fp32=232e9)", ""))
        done, rows = self.bench("S", "--rounds", "1", "--steps", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("not measured in a run as short as this one: take more --steps", done.stdout)
        self.assertIn("0.76x of the published processor time: it counts", done.stdout)
        self.assertNotIn("at equal rates", done.stdout)
        self.assertEqual((rows[0]["counts"], rows[0]["ours"]["matrix_share"]), (True, None))

    def test_another_allocator_can_be_tried(self):
        library = self.folder / "libother.so"
        library.touch()
        done, rows = self.bench("S", "--rounds", "1", "--steps", "3", "--preload", library)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"PyTorch baseline, libother\.so +426\.7 ")
        self.assertEqual(rows[0]["baselines"].keys(), {"glibc", "glibc, freed memory kept", "libother.so"})

    def test_the_allocator_of_our_program_is_tried(self):
        ldd = self.folder / "ldd"
        ldd.write_text("#!/bin/sh\necho 'libours_malloc.so.4 => /lib/libours_malloc.so.4 (0x0)'\necho 'libc.so.6 => /lib/libc.so.6 (0x1)'\n")
        ldd.chmod(0o755)
        done, rows = self.bench("S", "--rounds", "1", "--steps", "3", path=f"{self.folder}:{os.environ['PATH']}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"PyTorch baseline, libours_malloc\.so\.4 +426\.7 ")
        self.assertEqual(rows[0]["baselines"].keys(), {"glibc", "glibc, freed memory kept", "libours_malloc.so.4"})

    def test_next_tokens_need_no_teacher(self):
        done, rows = self.bench("GPU-1.3B-next-token", "--device", "cuda", "--rounds", "1", "--steps", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.config_of_ours()["objective"], {"next_token": 1, "distill": 0})
        self.assertEqual(self.config_of_ours()["teacher"], {})
        self.assertNotIn("--teacher", self.words_of_baseline())
        self.assertRegex(done.stdout, r"PyTorch baseline, CUDA +1024\.0 ")
        self.assertNotIn("counts", rows[0])

    def test_cases_without_a_baseline_say_why(self):
        done, rows = self.bench("GPU-130M-of-7B-fp8", "GPU-7B-of-7B-recompute", "--device", "cuda", "--rounds", "1", "--steps", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no baseline: the plain baseline has no teacher in fp8\n", done.stdout)
        self.assertIn("no baseline: the baseline needs 160 GB", done.stdout)
        self.assertFalse(any("baseline" in row for row in rows))
        self.assertEqual(self.config_of_ours()["train"]["recompute"], "true")

    def test_scaling_shows_what_a_token_costs(self):
        done, rows = self.bench("--scaling", "256x6", "512x8-4096")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"256x6 +7\.0M +1024 +10\.000 +1\.020 +0\.20 +9803\.9 +50%")
        self.assertRegex(done.stdout, r"512x8-4096 +7\.0M +4096 +10\.000 +1\.020 +0\.20 +9803\.9 +50%")
        self.assertEqual([row["tokens_per_step"] for row in rows], [1024, 4096])
        self.assertAlmostEqual(rows[0]["flops_per_token"], 10e9)
        self.assertEqual(rows[0]["matrix_flops_per_second"], {"fp32": 232e9})

    def test_binarization_is_shown_as_a_ratio_to_dense_weights(self):
        done, rows = self.bench("--binarization", "--rounds", "1", "--steps", "4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("S: 10 micro-steps, 20480 tokens per step", done.stdout)
        self.assertRegex(done.stdout, r"dense +20\.480 +1\.000 +40\.960 +1\.000 +3\.00")
        self.assertRegex(done.stdout, r"binarized, products dense +20\.890 +1\.020")
        self.assertAlmostEqual(rows[0]["figures"]["binarized, default"]["step_seconds_ratio"], 1.02)

    def test_products_are_shown_as_ratios_to_dense_ones(self):
        done, rows = self.bench("--products", "--rounds", "1", "--steps", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"S: 1 micro-steps, 2048 tokens per step.*\n.*\n  dense +2\.089 +1\.000 .*\n  tables +2\.089 .*\n  int8 ")
        self.assertEqual(self.config_of_ours()["train"]["sign_products"], "int8")

    def test_what_does_not_fit_together_is_refused(self):
        for words, message in ((["--scaling", "S"], "unknown case S; choose from 256x6"),
                               (["256x6"], "unknown case 256x6; choose from S, M"),
                               (["--scaling", "--binarization"], "not allowed with"),
                               (["S", "--preload", "/no/such.so"], "--preload /no/such.so: no such file")):
            with self.subTest(words):
                done, rows = self.bench(*words)
                self.assertEqual((done.returncode, rows), (2, None))
                self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
