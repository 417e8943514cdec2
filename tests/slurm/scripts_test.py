"""The batch scripts: what fbi-llm slurm writes, and what the scripts do after every end of srun (srun and scontrol are
stand-ins here; cluster_test.py runs a real Slurm).  Usage: scripts_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts" / "slurm"
PRETRAIN = (SCRIPTS / "pretrain.sbatch").read_text()
PROGRAM = None


def slurm(*words, code=0):
    done = subprocess.run([PROGRAM, "slurm", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    if done.returncode != code:
        raise AssertionError(f"fbi-llm slurm {words}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout if code == 0 else done.stderr


def options_of(text):
    return dict((line.removeprefix("#SBATCH --").split("=", 1) + [""])[:2] for line in text.splitlines() if line.startswith("#SBATCH "))


class Generated(unittest.TestCase):
    def test_the_committed_script_is_the_130m_preset(self):
        self.assertEqual(slurm("--preset", "130m"), PRETRAIN)

    def test_presets_are_the_published_shapes(self):
        for name, nodes, per_node, batch in (("130m", 1, 4, "4 ranks on 1 node: 1024 samples per step = 4 ranks x 32 samples x 8 micro-steps"),
                                             ("1.3b", 4, 4, "16 ranks on 4 nodes: 1152 samples per step = 16 ranks x 18 samples x 4 micro-steps"),
                                             ("7b", 8, 4, "32 ranks on 8 nodes: 1920 samples per step = 32 ranks x 6 samples x 10 micro-steps"),
                                             ("13b", 16, 4, "64 ranks on 16 nodes: 1920 samples per step = 64 ranks x 3 samples x 10 micro-steps")):
            with self.subTest(name):
                text = slurm("--preset", name)
                options = options_of(text)
                self.assertEqual((options["nodes"], options["gpus-per-node"], options["ntasks-per-node"]), (str(nodes), str(per_node), str(per_node)))
                self.assertEqual(options["signal"], "USR2@180")
                self.assertIn("# " + batch + "\n", text)
                self.assertIn(f"config=${{FBI_CONFIG:-configs/{name}.json}}\n", text)
                self.assertIn(f"run_dir=${{FBI_RUN_DIR:-runs/{name}}}\n", text)

    def test_a_shape_of_ones_own(self):
        text = slurm("--config", "configs/7b.json", "--nodes", 2, "--gpus-per-node", 8, "--cpus-per-rank", 12, "--run-dir", "runs/my 7b",
                     "--set", "train.micro_batch=12", "--set", 'data.paths=["it\'s here"]', "--time", "12:00:00", "--signal-seconds", 600,
                     "--chain", 5, "--sbatch", "partition=gpu", "--sbatch=--account=me", "--sbatch", "exclusive", "--job-name", "mine",
                     "--program", "apptainer exec --nv fbi.sif fbi-llm")
        options = options_of(text)
        expected = {"job-name": "mine", "nodes": "2", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "12", "time": "12:00:00",
                    "signal": "USR2@600", "array": "1-5%1", "partition": "gpu", "account": "me", "exclusive": "", "requeue": "",
                    "open-mode": "append"}
        self.assertEqual({key: options.get(key) for key in expected}, expected)
        show = text.split("most_retries=")[0] + 'printf "%s|" "$config" "$run_dir" "$program" "${options[@]}"'
        done = subprocess.run(["bash", "-c", show], capture_output=True, text=True)
        self.assertEqual(done.stdout.split("|")[:-1], ["configs/7b.json", "runs/my 7b", "apptainer exec --nv fbi.sif fbi-llm", "--set",
                                                       "train.micro_batch=12", "--set", 'data.paths=["it\'s here"]',
                                                       "--set", "train.device=cuda"])

    def test_ranks_on_cpus(self):
        text = slurm("--config", "configs/130m.json", "--nodes", 1, "--gpus-per-node", 0, "--ranks-per-node", 2)
        self.assertEqual(options_of(text)["ntasks-per-node"], "2")
        self.assertNotIn("gpus-per-node", options_of(text))

    def test_into_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "job.sbatch"
            self.assertIn(f"sbatch {path}", slurm("--preset", "130m", "--out", path))
            self.assertEqual(path.read_text(), PRETRAIN)

    def test_a_batch_that_does_not_divide(self):
        self.assertIn("train.global_batch = 1920: expected a multiple of 72 (micro_batch 6 x 12 ranks)", slurm("--preset", "7b", "--nodes", 3, code=2))


class Run(unittest.TestCase):
    """The scripts with stand-ins for srun, which ends with the codes of a list, and scontrol."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fbi-slurm-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.stand_in("srun", 'printf "%s\\n" "$@" >srun-words; echo "$SRUN_CPUS_PER_TASK $OMP_NUM_THREADS" >srun-cpus; exit "$FAKE_CODE"')
        self.stand_in("scontrol", 'echo "$@" >>scontrol-words; exit "${FAKE_SCONTROL:-0}"')

    def stand_in(self, name, body):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def submit(self, script="pretrain.sbatch", words=(), srun=0, expected=0, **variables):
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "FAKE_CODE": str(srun), **variables}
        done = subprocess.run(["bash", SCRIPTS / script, *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, expected, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def requeued(self):
        path = self.folder / "scontrol-words"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text

    def checkpoint(self, step):
        (self.folder / f"runs/130m/checkpoints/step-{step:08}").mkdir(parents=True)

    def test_command_of_a_rank(self):
        self.submit(words=["--set", "a=b c"], SLURM_CPUS_PER_TASK="6")
        words = (self.folder / "srun-words").read_text().splitlines()
        self.assertEqual(words[2:], ["fbi-llm", "train", "--config", "configs/130m.json", "--run-dir", "runs/130m", "--resume", "auto",
                                     "--set", "train.device=cuda", "--set", "a=b c"])
        self.assertEqual((self.folder / "srun-cpus").read_text(), "6 6\n")
        self.submit(FBI_CONFIG="c.json", FBI_RUN_DIR="r d", FBI_PROGRAM="apptainer exec --nv x.sif fbi-llm", OMP_NUM_THREADS="3")
        words = (self.folder / "srun-words").read_text().splitlines()
        self.assertEqual(words[2:], ["apptainer", "exec", "--nv", "x.sif", "fbi-llm", "train", "--config", "c.json", "--run-dir", "r d",
                                     "--resume", "auto", "--set", "train.device=cuda"])
        self.assertEqual((self.folder / "srun-cpus").read_text(), "1 3\n")

    def test_finished(self):
        self.submit()
        self.assertEqual(self.requeued(), "")

    def test_stopped_with_state_saved(self):
        self.submit(srun=75)
        self.assertEqual(self.requeued(), "requeue 77\n")

    def test_requeueing_not_allowed(self):
        self.assertIn("could not be requeued; submit it again", self.submit(srun=75, expected=75, FAKE_SCONTROL="1"))

    def test_a_failure_is_not_repeated(self):
        for code in (1, 2, 3, 4, 6, 7):
            self.submit(srun=code, expected=code)
            self.assertEqual(self.requeued(), "")

    def test_lost_ranks_are_replaced_up_to_a_limit(self):
        (self.folder / "runs").mkdir()
        for code in (5, 137, 5):
            self.submit(srun=code)
            self.assertEqual(self.requeued(), "requeue 77\n")
        self.assertIn("giving up", self.submit(srun=5, expected=5))
        self.assertEqual(self.requeued(), "")

    def test_a_new_checkpoint_begins_the_count_anew(self):
        for step in range(6):
            self.checkpoint(step)
            self.submit(srun=5)
        for _ in range(2):
            self.submit(srun=5)
        self.submit(srun=5, expected=5)
        self.checkpoint(99)
        self.submit(srun=5)
        self.assertTrue((self.folder / "runs/130m.lost-ranks").exists())
        self.submit()
        self.assertFalse((self.folder / "runs/130m.lost-ranks").exists())

    def test_without_a_place_to_count_nothing_is_repeated(self):
        self.submit(srun=5, expected=5)
        self.assertEqual(self.requeued(), "")

    def test_chain(self):
        (self.folder / "runs").mkdir()
        for code in (75, 5):
            self.submit(srun=code, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_MAX="10")  # the next element goes on
            self.assertEqual(self.requeued(), "")
            self.submit(srun=code, SLURM_ARRAY_TASK_ID="10", SLURM_ARRAY_TASK_MAX="10")
            self.assertEqual(self.requeued(), "requeue 77\n")

    def test_what_ends_for_good_ends_its_chain(self):
        self.stand_in("scancel", 'echo "$@" >>scancel-words')
        for code in (6, 5):  # without a place to count, a lost rank is one too many
            self.submit(srun=code, expected=code, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_MAX="10", SLURM_ARRAY_JOB_ID="70")
        self.submit(srun=6, expected=6)
        self.submit(SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_MAX="10", SLURM_ARRAY_JOB_ID="70")
        self.assertEqual((self.folder / "scancel-words").read_text(), 2 * "--state=PENDING 70\n")

    def test_a_branch_begins_once(self):
        def resumed():
            self.submit(FBI_BRANCH_FROM="runs/a/checkpoints/step-00000010")
            words = (self.folder / "srun-words").read_text().splitlines()
            return words[words.index("--resume") + 1]
        self.assertEqual(resumed(), "runs/a/checkpoints/step-00000010")
        self.checkpoint(10)
        self.assertEqual(resumed(), "auto")

    def test_a_chain_waits_for_the_lock_of_a_job_that_was_killed(self):
        lock = self.folder / "runs/130m/.lock/00000003"
        lock.parent.mkdir(parents=True)
        self.stand_in("sleep", f"echo slept >>slept; rm {lock}")
        slept = self.folder / "slept"
        lock.touch()  # empty: released
        self.submit(SLURM_ARRAY_TASK_ID="2")
        lock.write_text("owner")
        os.utime(lock, (0, 0))
        self.submit(SLURM_ARRAY_TASK_ID="2")
        lock.touch()
        self.submit()  # no chain: fbi-llm itself decides
        self.assertFalse(slept.exists())
        self.assertIn("waiting until the lock", self.submit(SLURM_ARRAY_TASK_ID="2"))
        self.assertEqual(slept.read_text(), "slept\n")
        self.stand_in("sleep", "echo slept >>slept")
        lock.write_text("owner")
        self.submit(SLURM_ARRAY_TASK_ID="2")
        self.assertEqual(slept.read_text().count("slept"), 41)  # not for ever

    def test_evaluation(self):
        self.submit("evaluate.sbatch", ["--model", "m", "--text", "t u"])
        self.assertEqual((self.folder / "srun-words").read_text().splitlines(), ["fbi-llm", "eval", "perplexity", "--model", "m", "--text", "t u"])
        self.assertEqual((self.folder / "srun-cpus").read_text(), "1 1\n")
        self.submit("evaluate.sbatch", ["--text", "t"], FBI_MODELS="a b", SLURM_ARRAY_TASK_ID="1", FBI_VERB="eval logits", SLURM_CPUS_PER_TASK="8")
        self.assertEqual((self.folder / "srun-cpus").read_text(), "8 8\n")
        self.assertEqual((self.folder / "srun-words").read_text().splitlines(), ["fbi-llm", "eval", "logits", "--model", "b", "--text", "t"])
        self.assertIn("--array=0-1", self.submit("evaluate.sbatch", FBI_MODELS="a b", SLURM_ARRAY_TASK_ID="2", expected=2))
        self.submit("evaluate.sbatch", ["--model", "m"], srun=3, expected=3)

    def test_outside_a_job(self):
        for script in ("pretrain.sbatch", "evaluate.sbatch"):
            self.assertIn("submit this script with sbatch", self.submit(script, SLURM_JOB_ID="", expected=1))


class Check(unittest.TestCase):
    def test_the_image_takes_what_the_build_needs(self):
        text = (SCRIPTS / "fbi.def").read_text()
        copied = re.findall(r"^    (\S+) /opt/fbi-llm/\1$", text, re.M)
        self.assertEqual([name for name in copied if not (REPOSITORY / name).exists()], [])
        used = set(re.findall(r"add_subdirectory\((\w+)\)", (REPOSITORY / "CMakeLists.txt").read_text())) | {"CMakeLists.txt", "CMakePresets.json"}
        self.assertEqual(used - set(copied), set())
        for section in ("%files", "%post", "%runscript"):
            self.assertIn(f"\n{section}\n", text)
        post = text.split("%post\n")[1].split("\n%")[0]
        done = subprocess.run(["bash", "-n"], input=post, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_shellcheck(self):
        if not shutil.which("shellcheck"):
            self.skipTest("shellcheck is not installed")
        done = subprocess.run(["shellcheck", *SCRIPTS.glob("*.sbatch")], capture_output=True, text=True)
        self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
