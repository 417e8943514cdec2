"""The shell scripts parse, explain themselves, refuse what they do not know, and find a broken installation."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
PROGRAMS = [p for p in sorted(SCRIPTS.glob("*.sh")) if p.name != "lib.sh"]


def bash(*command, env=os.environ):
    """In the C locale: bash warns of one that is not installed."""
    return subprocess.run(["bash", *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**env, "LC_ALL": "C"})


class Shell(unittest.TestCase):
    def test_every_script_explains_itself(self):
        for script in PROGRAMS:
            with self.subTest(script.name):
                done = bash(script, "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn(f"scripts/{script.name}", done.stdout)
                self.assertGreater(done.stdout.count("\n"), 5)

    def test_unknown_options_are_refused_before_anything_is_done(self):
        for script in PROGRAMS:
            with self.subTest(script.name):
                done = bash(script, "--no-such-option")
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn("unknown option --no-such-option", done.stderr)

    def test_shellcheck(self):
        if not shutil.which("shellcheck"):
            self.skipTest("shellcheck is not installed")
        done = subprocess.run(["shellcheck", "-x", *PROGRAMS, SCRIPTS.parent / ".ci/run"], cwd=SCRIPTS.parent,
                              capture_output=True, text=True)
        self.assertEqual(done.stdout, "")


class Deps(unittest.TestCase):
    def test_libtorch_root_without_libtorch_is_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copytree(SCRIPTS, pathlib.Path(directory) / "scripts")
            done = bash(pathlib.Path(directory) / "scripts/deps.sh", "--prefix", directory + "/unused",
                        env={**os.environ, "LIBTORCH_ROOT": directory})
            self.assertEqual(done.returncode, 1)
            self.assertIn("holds no LibTorch 2.11: include/torch/headeronly/version.h is missing", done.stderr)


    def test_installed_libraries_are_copied_for_a_machine_without_them(self):
        with tempfile.TemporaryDirectory() as directory:
            done = bash(SCRIPTS / "deps.sh", "--copy", directory)
            if "--copy copies" in done.stderr:
                self.skipTest(done.stderr)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            env = bash("-c", f"source {directory}/env.sh && echo $CMAKE_PREFIX_PATH", env={"PATH": os.environ["PATH"]})
            self.assertEqual(env.stdout, f"{directory}/usr\n")
            self.assertTrue(pathlib.Path(directory, "usr/include/gtest/gtest.h").is_file())
            self.assertFalse(list(pathlib.Path(directory).rglob("libc.so*")), "what comes with the compiler stays")


class BenchTraining(unittest.TestCase):
    def test_a_given_program_is_measured_as_it_is(self):
        words = ["GPU-130M", "--device", "cuda", "--program", "some/fbi-llm", "--work", "folder", "--preload", "lib.so"]
        with tempfile.TemporaryDirectory() as directory:
            python = pathlib.Path(directory) / "python"
            python.write_text('#!/bin/sh\necho "$*"\n')
            python.chmod(0o755)
            done = bash(SCRIPTS / "bench_training.sh", *words, env={**os.environ, "FBI_TEST_PYTHON": str(python)})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, f"tests/bench/bench_training.py --python {python} {' '.join(words)}\n")

    def test_what_it_does_not_know_is_refused(self):
        for words, message in ((["XL"], "unknown case XL"), (["--device"], "--device needs a value")):
            with self.subTest(words):
                done = bash(SCRIPTS / "bench_training.sh", *words)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(message, done.stderr)


class EvalHarness(unittest.TestCase):
    """With a stand-in for Python, which prints what the harness would be called with."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        shutil.copytree(SCRIPTS, self.root / "scripts")
        requirements = SCRIPTS.parent / "third_party/requirements-harness.txt"
        for copy in ("third_party/requirements-harness.txt", ".deps/harness/requirements.txt"):
            (self.root / copy).parent.mkdir(parents=True)
            shutil.copy(requirements, self.root / copy)
        python = self.root / ".deps/python-tests/bin/python"
        python.parent.mkdir(parents=True)
        # Where it is told to write results, it puts a date into their name, as the harness does; with --limit 0 it fails.
        python.write_text("""#!/bin/sh
case $1 in -c) echo cpu; exit ;; esac
echo "$*"
case $* in *--limit\\ 0*) exit 3 ;; *--output_path*) ;; *) exit ;; esac
while [ "$1" != --output_path ]; do shift; done
[ "$4" = nothing ] || echo '{}' > "${2%.json}_2026-01-01T00-00-00.json"
case $* in *--log_samples*) echo '{}' > "$(dirname "$2")/samples_piqa_2026-01-01T00-00-00.jsonl" ;; esac
""")
        python.chmod(0o755)

    def model(self, name, config, **files):
        folder = self.root / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        for file, text in files.items():
            (folder / f"{file}.json").write_text(text)
        return folder

    def harness(self, *words):
        return bash(self.root / "scripts/eval_harness.sh", *words)

    def called_with(self, *words):
        done = self.harness(*words)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_an_export_for_transformers(self):
        model = self.model("hf", '{"model_type": "llama"}')
        start = f"-m lm_eval --model hf --model_args pretrained={model},dtype=float16,add_bos_token=False --device"
        tasks = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa"
        self.assertEqual(self.called_with(model), f"{start} cpu --tasks {tasks} --num_fewshot 0 --batch_size 8\n")
        self.assertEqual(self.called_with("--device", "cuda:1", "--tasks", "piqa", model, "--", "--limit", "10", "--num_fewshot", "5"),
                         f"{start} cuda:1 --tasks piqa --num_fewshot 0 --batch_size 8 --limit 10 --num_fewshot 5\n")

    def test_results_go_into_the_file_that_is_named(self):
        model, out = self.model("hf", '{"model_type": "llama"}'), self.root / "made" / "o.json"
        self.assertRegex(self.called_with("--output", out, model), r" --output_path \S+/made/\.harness-\w+/results\.json\n$")
        self.assertEqual((out.read_text(), os.listdir(out.parent)), ("{}\n", ["o.json"]))
        self.called_with("--output", out, model, "--", "--log_samples")
        self.assertEqual(sorted(os.listdir(out.parent)), ["o.json", "samples_piqa_2026-01-01T00-00-00.jsonl"])
        for words, code in ((("--limit", "0"), 3), (("--tasks", "nothing"), 1)):
            failed = self.harness("--output", self.root / "failed" / "o.json", model, "--", *words)
            self.assertEqual((failed.returncode, os.listdir(self.root / "failed")), (code, []))
        self.assertIn("lm_eval wrote no results", failed.stderr)
        self.assertIn("is a folder, give a file", self.harness("--output", self.root, model).stderr)

    def test_a_server(self):
        model = self.model("packed", '{\n  "model_type": "fbi_llama",\n  "max_position_embeddings": 256,\n  "binarize": "column"\n}', tokenizer_config="{}")
        self.assertEqual(self.called_with("--server", "http://127.0.0.1:8080/", "--tokenizer", model, "--tasks", "piqa", "--", "--limit", "10"),
                         "-m lm_eval --model local-completions --model_args model=packed,base_url=http://127.0.0.1:8080/v1/completions,"
                         f"tokenizer={model},tokenizer_backend=huggingface,timeout=3600,max_length=256 --tasks piqa --num_fewshot 0 --batch_size 8 --limit 10\n")

    def test_what_transformers_cannot_load_is_refused(self):
        for name, config in (("packed", '{"model_type": "fbi_llama", "binarize": "column"}'), ("native", '{"model_type": "llama", "binarize": "row"}'),
                             ("run", '{"train": {"steps": 1}, "model": {"binarize": "none"}}'), ("other", '{"model_type": "mistral"}')):
            with self.subTest(name):
                done = self.harness(self.model(name, config))
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn("export it with: fbi-llm export --format hf", done.stderr)

    def test_what_does_not_go_together_is_refused(self):
        for words, message in (([], "which model?"), (["--server", "URL"], "--server needs --tokenizer"), (["some", "--tokenizer", "x"], "is for --server"),
                               (["some", "--server", "URL"], "not both"), (["--server", "URL", "--device", "cpu"], "its own")):
            with self.subTest(words):
                done = self.harness(*words)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(message, done.stderr)


class GpuCheck(unittest.TestCase):
    """With stand-ins for the programs of a GPU machine."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        shutil.copytree(SCRIPTS, self.root / "scripts")
        (self.root / "bin").mkdir()
        self.program("nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
        self.program("nvidia-smi", 'case $1 in *name) echo "Some GPU" ;; *compute_cap) echo 9.0 ;; *) echo 580.1 ;; esac')
        self.program("python3", "exit 1")

    def program(self, name, text):
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def make_tests_that(self, text):
        """A cmake whose build makes programs that do `text`."""
        self.program("cmake", f"""case "$*" in
  *'--target help') ;;
  --build*) mkdir -p build/gpu/bin
    for name in kernels_cuda_test train_gpu_test train_gpu_ranks_test infer_cuda_test nccl_test unpack_share_bench fbi-run; do
      printf '#!/bin/sh\\n%s\\n' '{text}' >build/gpu/bin/$name; chmod +x build/gpu/bin/$name
    done ;;
  *) echo "$*" ;;
esac""")

    def check(self, *arguments):
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "LIBTORCH_ROOT": "/some/torch",
                       "FBI_COMMIT": "abc123", "FBI_TEST_PYTHON": ""}
        return bash(self.root / "scripts/gpu_check.sh", *arguments, env=environment)

    def report(self):
        return (self.root / "build/gpu/gpu-report.md").read_text()

    def test_without_gpu_or_toolkit_it_says_so(self):
        self.program("nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.1'")
        done = self.check()
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no CUDA 13 toolkit", done.stderr)
        self.program("nvidia-smi", "exit 9")
        done = self.check()
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no GPU is found", done.stderr)

    def test_ranks_are_tested_where_there_are_two_gpus(self):
        self.make_tests_that("echo all is well")
        self.check()
        self.assertNotIn("train_gpu_ranks_test", self.report())
        self.program("nvidia-smi", 'case $1 in --list-gpus) echo "GPU 0"; echo "GPU 1" ;; *name) echo "Some GPU" ;; *compute_cap) echo 9.0 ;; *) echo 580.1 ;; esac')
        self.check()
        self.assertIn("train_gpu_ranks_test", self.report())

    def test_the_report_has_every_part(self):
        self.make_tests_that("echo all is well")
        done = self.check()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        report = self.report()
        for text in ("commit: abc123", "GPU: Some GPU, driver 580.1", "all is well",
                     "-DCMAKE_CUDA_ARCHITECTURES=90a -DLIBTORCH_ROOT=/some/torch", "| cuda_kernels_bench | left out: Google Benchmark",
                     "| training | left out: no Python"):
            self.assertIn(text, report)
        self.assertRegex(report, r"\| train_gpu_test \| exit 0, \d+:\d\d \|")

    def test_training_cases_can_be_chosen(self):
        self.make_tests_that("true")
        self.program("python3", 'case $1 in -c) ;; *) echo "$*" ;; esac')
        for arguments, cases, steps in ((["--cases", "A,B"], ["A", "B"], 8), (["--quick"], ["GPU-130M"], 5),
                                        ([], ["GPU-130M", "GPU-1.3B", "GPU-1.3B-recompute", "GPU-1.3B-next-token",
                                              "GPU-1.3B-fp8-signs"], 8)):
            with self.subTest(arguments):
                self.assertEqual(self.check(*arguments).returncode, 0)
                self.assertEqual(re.findall(r"bench_training.py (\S+) --device cuda --rounds 1 --steps (\d)", self.report()),
                                 [(case, str(steps)) for case in cases])

    def test_parts_can_be_chosen(self):
        self.make_tests_that("true")
        self.program("python3", 'case $1 in -c) ;; *) echo "$*" ;; esac')
        of = {"tests": "nccl_test", "kernels": "unpack_share_bench", "inference": "inference-7b-fp32", "training": "training-GPU-1.3B"}
        for only in ("training", "tests,inference"):
            with self.subTest(only):
                self.assertEqual(self.check("--only", only).returncode, 0)
                found = {part for part, name in of.items() if f"| {name} |" in self.report()}
                self.assertEqual(found, set(only.split(",")))
        done = self.check("--only", "tests,kernel")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("--only: expected some of tests, kernels, inference and training, found kernel", done.stderr)

    def test_a_failed_or_skipped_test_fails(self):
        for text, result in (("exit 3", "exit 3,"), ('echo "[  SKIPPED ] Gpu.Any"', "exit 0, but tests were skipped")):
            with self.subTest(text):
                self.make_tests_that(text)
                self.assertEqual(self.check().returncode, 1)
                self.assertIn(f"| nccl_test | {result}", self.report())

    def test_what_takes_too_long_is_noted_and_the_next_part_runs(self):
        self.make_tests_that("echo all is well")
        self.program("timeout", 'shift 3; case $* in *train_gpu_test) echo slow; exit 124 ;; esac; exec "$@"')
        self.assertEqual(self.check().returncode, 1)
        self.assertRegex(self.report(), r"\| train_gpu_test \| exit 124: stopped after 240 s, \d+:\d\d \|")
        self.assertIn("## train_gpu_test\n\n```\nslow\n", self.report())
        self.assertRegex(self.report(), r"\| nccl_test \| exit 0, \d+:\d\d \|")

    def test_what_was_built_is_tested_when_the_build_failed(self):
        self.program("cmake", """case "$*" in
  *'--target help') ;;
  --build*) mkdir -p build/gpu/bin; printf '#!/bin/sh\necho fine\n' >build/gpu/bin/nccl_test; chmod +x build/gpu/bin/nccl_test
    echo "error: no such header"; exit 2 ;;
esac""")
        self.assertEqual(self.check().returncode, 1)
        for text in ("| build | exit 2,", "no such header", "| kernels_cuda_test | left out: build/gpu/bin/kernels_cuda_test was not built |",
                     "| nccl_test | exit 0,"):
            self.assertIn(text, self.report())

    def test_a_configuration_that_fails_ends_with_a_report(self):
        self.program("cmake", "echo no such library; exit 1")
        self.assertEqual(self.check().returncode, 1)
        self.assertIn("| configure | exit 1", self.report())
        self.assertIn("no such library", self.report())

    def test_libraries_must_be_a_folder_of_deps(self):
        done = self.check("--libraries", self.root)
        self.assertEqual(done.returncode, 1)
        self.assertIn("it has no env.sh", done.stderr)


if __name__ == "__main__":
    unittest.main()
