"""The batch script under a real Slurm of one node: requeueing, chains, lost ranks, the signal before the time limit.
Usage: cluster_test.py PATH-OF-FBI-LLM [unittest arguments]; exit status 77: skipped, there is no Slurm here"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import cluster
from cluster import wait_until

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import small_job  # noqa: E402

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "slurm"
PROGRAM = None
CLUSTER = None
WORK = None
RANKS, STEPS = 2, 200  # enough steps to be caught in the middle


def setUpModule():
    global WORK, CLUSTER
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-slurm-job-"))
    small_job.write_job(WORK, STEPS)
    CLUSTER = cluster.Cluster(cpus=RANKS)


def tearDownModule():
    CLUSTER.close()
    shutil.rmtree(WORK)


def write_script(run_dir, *words):
    """The script as users get it, for ranks on CPUs."""
    path = WORK / f"{run_dir}.sbatch"
    subprocess.run([PROGRAM, "slurm", "--config", "config.json", "--nodes", "1", "--gpus-per-node", "0", "--ranks-per-node", str(RANKS),
                    "--cpus-per-rank", "1", "--time", "30", "--run-dir", run_dir, "--job-name", run_dir, "--program", PROGRAM, *words, "--out", path],
                   cwd=WORK, check=True, capture_output=True)
    return path


def submit(script, *options, words=(), **variables):
    out = CLUSTER.call("env", *[f"{key}={value}" for key, value in variables.items()], "sbatch", "--parsable", *options, script, *words, cwd=WORK)
    return int(out)


def state(job):
    return CLUSTER.job(job)["JobState"]


def end_of(job):
    """State and exit code once the job has ended for good."""
    wait_until(lambda: state(job) in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"), f"the end of job {job}")
    return state(job), CLUSTER.job(job)["ExitCode"].split(":")[0]


def output(name):
    return "".join(path.read_text() for path in sorted(WORK.glob(f"{name}-*.log")))


def stand_in(name, body):
    """A program in the place of fbi-llm."""
    path = WORK / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class Script(unittest.TestCase):
    def test_a_job_that_loses_a_rank_starts_again(self):
        program = stand_in("loses-a-rank", 'echo "start $SLURM_RESTART_COUNT"; [ -n "$SLURM_RESTART_COUNT" ] && exit 0; '
                                           '[ $SLURM_PROCID = 0 ] || kill -9 $$; exit 5')
        job = submit(write_script("lost"), FBI_PROGRAM=program)
        self.assertEqual(end_of(job), ("COMPLETED", "0"))
        text = output("lost")
        self.assertIn("srun ended with exit code 137", text)
        self.assertEqual(text.count("start 1\n"), RANKS, text)

    def test_a_chain_goes_on_where_the_last_job_stopped_and_then_does_nothing(self):
        program = stand_in("goes-on", 'echo "leg"; [ -e done ] && exit 0; [ -e half ] && [ $SLURM_PROCID = 0 ] && : >done; : >half; exit 75')
        script = write_script("chain", "--chain", "4")
        job = submit(script, "--ntasks=1", "--ntasks-per-node=1", FBI_PROGRAM=program)
        wait_until(lambda: not CLUSTER.call("squeue", "-h", "-j", job).strip(), "the end of the chain")
        self.assertEqual([state(f"{job}_{i}") for i in range(1, 5)], ["COMPLETED"] * 4)
        self.assertEqual(output("chain").count("srun ended with exit code 75"), 2)
        self.assertEqual(output("chain").count("srun ended with exit code 0"), 2)


def rank_processes():
    def is_rank(pid):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/exe") == PROGRAM
        return False
    return [pid for pid in cluster.descendants() if is_rank(pid)]


def is_stopped(pid):
    with contextlib.suppress(OSError):
        return "State:\tT" in pathlib.Path(f"/proc/{pid}/status").read_text()
    return False


def awaits(pid, number):
    """Whether this signal waits for a stopped process."""
    with contextlib.suppress(OSError):
        masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
    return False


class TimeLimit(unittest.TestCase):
    def interrupt(self, job, run_dir):
        """Holds the ranks somewhere in the middle until Slurm has sent its signal, so that no speed of any machine matters."""
        wait_until(lambda: small_job.steps_done(WORK / run_dir) >= 5, "some steps")
        ranks = rank_processes()
        self.assertEqual(len(ranks), RANKS)
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(is_stopped, ranks)), "stopped ranks")
        done = small_job.steps_done(WORK / run_dir)
        self.assertLess(done, STEPS)
        CLUSTER.call("scontrol", "update", f"JobId={job}", "TimeLimit=3")  # the 180 seconds before the limit began with the job
        # Some versions of Slurm let a process that they signal go on by themselves.
        wait_until(lambda: not any(is_stopped(pid) and not awaits(pid, signal.SIGUSR2) for pid in ranks), "the signal before the time limit")
        CLUSTER.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # else Slurm would signal the second start as soon
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return done

    def test_a_job_saves_before_its_limit_is_requeued_and_ends_with_the_bits_of_one_that_nothing_stopped(self):
        whole = submit(write_script("whole"))
        self.assertEqual(end_of(whole), ("COMPLETED", "0"), output("whole"))
        script = write_script("halved")
        job = submit(script)
        stopped_at = self.interrupt(job, "halved")
        self.assertEqual(end_of(job), ("COMPLETED", "0"), output("halved"))
        text = output("halved")
        self.assertEqual(text.count("srun ended with exit code 75"), 1, text)
        self.assertIn(f"job {job}: start 1", text)
        self.assertRegex(text, r"continuing from halved/checkpoints/step-\d+")
        self.assertGreaterEqual(int(re.search(r"stopped by signal 12 at step (\d+)", text).group(1)), stopped_at)
        self.assertEqual(*[small_job.what_was_computed(WORK / name) for name in ("halved", "whole")])
        self.assertEqual(*[json.loads(subprocess.run([PROGRAM, "inspect", "--json", name], cwd=WORK, check=True, capture_output=True).stdout)
                           for name in ("halved", "whole")])
        self.check_that_a_finished_run_does_nothing(script)

    def check_that_a_finished_run_does_nothing(self, script):
        (WORK / "samples.jsonl").unlink()  # nothing is loaded
        before = (WORK / "halved/metrics.jsonl").read_bytes()
        self.assertEqual(end_of(submit(script)), ("COMPLETED", "0"))
        self.assertEqual((WORK / "halved/metrics.jsonl").read_bytes(), before)


class CancelledAndEvaluated(unittest.TestCase):
    def test_a_job_that_is_cancelled_saves_and_stays_cancelled_and_what_it_saved_can_be_evaluated(self):
        job = submit(write_script("cancelled"), words=["--set", "train.steps=1000000"])
        wait_until(lambda: small_job.steps_done(WORK / "cancelled") >= 5, "some steps")
        CLUSTER.call("scancel", job)
        self.assertEqual(end_of(job)[0], "CANCELLED")
        self.assertRegex(output("cancelled"), r"stopped by signal 15 at step \d+")
        self.assertEqual(CLUSTER.call("squeue", "-h"), "")  # it was not requeued
        job = submit(SCRIPTS / "evaluate.sbatch", "--gpus-per-node=0", "--cpus-per-task=1", FBI_PROGRAM=PROGRAM,
                     words=["--model", "cancelled", "--tokens", "samples.jsonl", "--max-windows", "8", "--json"])
        self.assertEqual(end_of(job), ("COMPLETED", "0"), output("fbi-eval"))
        self.assertEqual(json.loads(output("fbi-eval").splitlines()[-1])["windows"], 8)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    reason = cluster.why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
