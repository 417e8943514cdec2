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
from jobs import Jobs

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import small_job  # noqa: E402
from processes import wait_until  # noqa: E402

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "slurm"
PROGRAM = None
JOBS = None
WORK = None
RANKS, STEPS = 2, 200  # enough steps to be caught in the middle


def setUpModule():
    global WORK, JOBS
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-slurm-job-"))
    small_job.write_job(WORK, STEPS)
    JOBS = Jobs(PROGRAM, WORK, RANKS)


def tearDownModule():
    JOBS.cluster.close()
    shutil.rmtree(WORK)


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
        job = JOBS.submit(JOBS.write_script("lost"), FBI_PROGRAM=program)
        self.assertEqual(JOBS.end_of(job), ("COMPLETED", "0"))
        text = JOBS.output("lost")
        self.assertIn("srun ended with exit code 137", text)
        self.assertEqual(text.count("start 1\n"), RANKS, text)

    def test_a_chain_goes_on_where_the_last_job_stopped_and_then_does_nothing(self):
        program = stand_in("goes-on", 'echo "leg"; [ -e done ] && exit 0; [ -e half ] && [ $SLURM_PROCID = 0 ] && : >done; : >half; exit 75')
        script = JOBS.write_script("chain", "--chain", "4")
        job = JOBS.submit(script, "--ntasks=1", "--ntasks-per-node=1", FBI_PROGRAM=program)
        wait_until(lambda: not JOBS.cluster.call("squeue", "-h", "-j", job).strip(), "the end of the chain", pause=0.1)
        self.assertEqual([JOBS.state(f"{job}_{i}") for i in range(1, 5)], ["COMPLETED"] * 4)
        self.assertEqual(JOBS.output("chain").count("srun ended with exit code 75"), 2)
        self.assertEqual(JOBS.output("chain").count("srun ended with exit code 0"), 2)


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
        ranks = JOBS.rank_processes()
        self.assertEqual(len(ranks), RANKS)
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(is_stopped, ranks)), "stopped ranks")
        done = small_job.steps_done(WORK / run_dir)
        self.assertLess(done, STEPS)
        JOBS.cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=3")  # the 180 seconds before the limit began with the job
        # Some versions of Slurm let a process that they signal go on by themselves.
        wait_until(lambda: not any(is_stopped(pid) and not awaits(pid, signal.SIGUSR2) for pid in ranks), "the signal before the time limit")
        JOBS.cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # else Slurm would signal the second start as soon
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return done

    def test_a_job_saves_before_its_limit_is_requeued_and_ends_with_the_bits_of_one_that_nothing_stopped(self):
        whole = JOBS.submit(JOBS.write_script("whole"))
        self.assertEqual(JOBS.end_of(whole), ("COMPLETED", "0"), JOBS.output("whole"))
        script = JOBS.write_script("halved")
        job = JOBS.submit(script)
        stopped_at = self.interrupt(job, "halved")
        self.assertEqual(JOBS.end_of(job), ("COMPLETED", "0"), JOBS.output("halved"))
        text = JOBS.output("halved")
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
        self.assertEqual(JOBS.end_of(JOBS.submit(script)), ("COMPLETED", "0"))
        self.assertEqual((WORK / "halved/metrics.jsonl").read_bytes(), before)


class CancelledAndEvaluated(unittest.TestCase):
    def test_a_job_that_is_cancelled_saves_and_stays_cancelled_and_what_it_saved_can_be_evaluated(self):
        job = JOBS.submit(JOBS.write_script("cancelled"), words=["--set", "train.steps=1000000"])
        wait_until(lambda: small_job.steps_done(WORK / "cancelled") >= 5, "some steps")
        JOBS.cluster.call("scancel", job)
        self.assertEqual(JOBS.end_of(job)[0], "CANCELLED")
        self.assertRegex(JOBS.output("cancelled"), r"stopped by signal 15 at step \d+")
        self.assertEqual(JOBS.cluster.call("squeue", "-h"), "")  # it was not requeued
        job = JOBS.submit(SCRIPTS / "evaluate.sbatch", "--gpus-per-node=0", "--cpus-per-task=1", FBI_PROGRAM=PROGRAM,
                     words=["--model", "cancelled", "--tokens", "samples.jsonl", "--max-windows", "8", "--json"])
        self.assertEqual(JOBS.end_of(job), ("COMPLETED", "0"), JOBS.output("fbi-eval"))
        self.assertEqual(json.loads(JOBS.output("fbi-eval").splitlines()[-1])["windows"], 8)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    reason = cluster.why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
