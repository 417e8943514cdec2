"""Training over several nodes of a real Slurm, each with a host name and a network of its own (tests/support/network.py): over a network that is not
loopback, and when a node drops out of it.
Usage: nodes_test.py PATH-OF-FBI-LLM [unittest arguments]; exit status 77: skipped, it cannot be done here"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import cluster
from jobs import Jobs

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import network  # noqa: E402
import small_job  # noqa: E402
from processes import alive, wait_until  # noqa: E402

PROGRAM = None
JOBS = None
WORK = None
NODES, RANKS, STEPS = 2, 2, 400


def setUpModule():
    global WORK, JOBS
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-slurm-nodes-"))
    small_job.write_job(WORK, STEPS)
    JOBS = Jobs(PROGRAM, WORK, RANKS, NODES)
    subprocess.run([PROGRAM, "launch", "--nproc", str(NODES * RANKS), "--", "train", "--config", "config.json", "--run-dir", "here",
                    "--set", "train.threads=1"], cwd=WORK, check=True, capture_output=True)


def tearDownModule():
    JOBS.cluster.close()
    shutil.rmtree(WORK)


class SeveralNodes(unittest.TestCase):
    def assert_as_on_one_machine(self, run_dir):
        self.assertEqual(*[small_job.what_was_computed(WORK / name) for name in (run_dir, "here")])

    def test_ranks_of_two_nodes_compute_what_those_of_one_machine_do(self):
        job = JOBS.submit(JOBS.write_script("nodes"))
        self.assertEqual(JOBS.end_of(job), ("COMPLETED", "0"), JOBS.output("nodes"))
        self.assertIn("on node[1-2]", JOBS.output("nodes"))
        self.assert_as_on_one_machine("nodes")

    def test_a_node_that_drops_out_of_the_network_is_named_and_the_job_goes_on_when_it_is_back(self):
        job = JOBS.submit(JOBS.write_script("cut"), words=["--set", "checkpoint.every_steps=5"])
        wait_until(lambda: small_job.steps_done(WORK / "cut") >= 20, "some steps")
        ranks = JOBS.rank_processes()
        self.assertEqual(len(ranks), NODES * RANKS)
        for pid in ranks:  # held meanwhile, so that no speed of any machine matters
            os.kill(pid, signal.SIGSTOP)
        JOBS.cluster.network.unplug("node2")
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not any(map(alive, ranks)), "the end of all ranks")
        JOBS.cluster.network.plug_in("node2")
        self.assertEqual(JOBS.end_of(job), ("COMPLETED", "0"), JOBS.output("cut"))
        text = JOBS.output("cut")
        self.assertRegex(text, r"rank [23] \(process \d+ on node2\) was lost or stands still")
        self.assertIn("srun ended with exit code 5", text)
        self.assertRegex(text, r"continuing from cut/checkpoints/step-\d+")
        self.assert_as_on_one_machine("cut")


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    reason = cluster.why_not() or network.why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
