"""fbi-llm launch on two machines, each with a host name and a network of its own (tests/support/network.py).
Usage: launch_nodes_test.py PATH-OF-FBI-LLM [unittest arguments]; exit status 77: skipped, it cannot be done here"""
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import network  # noqa: E402
import small_job  # noqa: E402
from processes import HANG, wait_until  # noqa: E402

PROGRAM = None
WORK = None
HOSTS = None
STEPS, RANKS = 60, 2


def setUpModule():
    global WORK, HOSTS
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-launch-nodes-"))
    small_job.write_job(WORK, STEPS)
    HOSTS = network.Network(["node0", "node1"], WORK)


def tearDownModule():
    HOSTS.close()
    shutil.rmtree(WORK)


def train_words(run_dir, *words):
    return ["train", "--config", "config.json", "--run-dir", run_dir, "--resume", "auto", "--set", "train.threads=1", *words]


def start(run_dir, *words):
    """The launchers of all nodes."""
    return [subprocess.Popen(HOSTS.words(name, PROGRAM, "launch", "--nodes", len(HOSTS.names), "--node", node, "--master", "node0:29512",
                                         "--nproc", RANKS, "--", *train_words(run_dir, *words), folder=WORK),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for node, name in enumerate(HOSTS.names)]


def codes(launchers):
    return [(launcher.communicate(timeout=HANG)[0], launcher.returncode)[1] for launcher in launchers]


class TwoMachines(unittest.TestCase):
    def start(self, *words):
        launchers = start(*words)
        for launcher in launchers:
            self.addCleanup(launcher.kill)  # its ranks end with it
        return launchers

    def test_train_as_one_does_and_stop_together(self):
        subprocess.run([PROGRAM, "launch", "--nproc", str(2 * RANKS), "--", *train_words("here")], cwd=WORK, check=True, capture_output=True)
        self.assertEqual(codes(self.start("nodes")), [0, 0])
        self.assertEqual(*[small_job.what_was_computed(WORK / name) for name in ("nodes", "here")])

        launchers = self.start("stopped", "--set", "train.steps=1000000")
        wait_until(lambda: small_job.steps_done(WORK / "stopped") >= 5 or any(one.poll() is not None for one in launchers), "some steps")
        launchers[1].send_signal(signal.SIGTERM)  # of the machine without rank 0
        self.assertEqual(codes(launchers), [75, 75])


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    reason = network.why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
