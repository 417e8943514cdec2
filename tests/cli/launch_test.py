"""fbi-llm launch: several ranks on one machine, how they end together, and what the whole returns.  The ranks are shell
scripts, so that they can fail in every way.  Usage: launch_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))
from processes import HANG, alive, wait_until  # noqa: E402

PROGRAM = None
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def command(ranks, script, *options):
    return [PROGRAM, "launch", "--nproc", str(ranks), *options, "--program", "sh", "--", "-c", script]


def launch(ranks, script, *options, code=0, **more):
    done = subprocess.run(command(ranks, script, *options), capture_output=True, text=True, timeout=HANG, **more)
    if done.returncode != code:
        raise AssertionError(f"exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done


class Start(unittest.TestCase):
    def test_every_rank_knows_its_place(self):
        script = "echo " + " ".join(f"{name}=${name}" for name in VARIABLES)
        environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        processors = int(launch(1, "echo $OMP_NUM_THREADS", env=environment).stdout)
        self.assertLessEqual(processors, len(os.sched_getaffinity(0)))
        lines = sorted(launch(3, script, "--output", "all", env={**environment, "RANK": "7"}).stdout.splitlines())
        self.assertEqual(len(lines), 3)
        for rank, line in enumerate(lines):
            values = dict(word.split("=") for word in line.removeprefix(f"[{rank}] ").split())
            self.assertEqual((values["RANK"], values["LOCAL_RANK"], values["WORLD_SIZE"]), (str(rank), str(rank), "3"))
            self.assertEqual(values["MASTER_ADDR"], "127.0.0.1")
            self.assertEqual(int(values["OMP_NUM_THREADS"]), max(1, processors // 3))
        self.assertEqual(len({re.search(r"MASTER_PORT=(\d+)", line).group(1) for line in lines}), 1)

    def test_ranks_of_several_machines_are_counted_through(self):
        script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT"
        for master, port in {"host0": "29500", "host0:1234": "1234"}.items():
            done = launch(2, script, "--nodes", "3", "--node", "1", "--master", master, "--output", "all")
            self.assertEqual(sorted(done.stdout.splitlines()), [f"[2] 2 0 6 host0 {port}", f"[3] 3 1 6 host0 {port}"])

    def test_machines_that_do_not_make_sense(self):
        launch(1, "true", "--nodes", "1", "--node", "0", "--master", "a")  # as a script of any number has it
        for options, said in {("--node", "1"): "give --nodes", ("--master", "a"): "give --nodes", ("--nodes", "2"): "needs --node", ("--nodes", "0"): "expected 1 to",
                              ("--nodes", "2", "--node", "2", "--master", "a"): "expected 0 to 1, found 2",
                              ("--nodes", "2", "--node", "0", "--master", "a:b"): "found 'a:b'",
                              ("--nodes", "2", "--node", "0", "--master", "a:99999999999"): "found 'a:99999999999'",
                              ("--nodes", "2", "--node", "0", "--master", ":1"): "found ':1'"}.items():
            self.assertIn(said, launch(1, "true", *options, code=2).stderr)

    def test_number_of_threads_can_be_chosen(self):
        self.assertEqual(launch(2, "echo $OMP_NUM_THREADS", env={**os.environ, "OMP_NUM_THREADS": "5"}).stdout, "5\n")

    def test_the_port_is_kept_for_the_ranks(self):
        # Nobody else gets it, but a server that reuses addresses can listen at it.
        script = ("import os, socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
                  "s.bind(('', int(os.environ['MASTER_PORT']))); s.listen(); print('listens');"
                  "t = socket.socket(); t.connect(('127.0.0.1', int(os.environ['MASTER_PORT'])))")
        done = subprocess.run([PROGRAM, "launch", "--nproc", "1", "--program", sys.executable, "--", "-c", script],
                              capture_output=True, text=True, timeout=HANG)
        self.assertEqual((done.returncode, done.stdout), (0, "listens\n"), done.stderr)

    def test_standard_input_is_empty(self):
        self.assertEqual(launch(1, "cat; echo end", input="for nobody\n").stdout, "end\n")

    def test_verbs_of_this_program(self):
        done = subprocess.run([PROGRAM, "launch", "--nproc", "2", "--output", "all", "--", "config", REPOSITORY / "configs/130m.json",
                               "--world-size", "2"], capture_output=True, text=True, timeout=HANG)
        self.assertEqual(done.returncode, 0, done.stderr)
        ranks = [[line[4:] for line in done.stdout.splitlines() if line.startswith(f"[{rank}] ")] for rank in range(2)]
        self.assertGreater(len(ranks[0]), 20)
        self.assertEqual(ranks[0], ranks[1])

    def test_what_follows_the_dashes_is_for_the_ranks(self):
        done = subprocess.run([PROGRAM, "launch", "--nproc", "1", "--", "train", "--help"], capture_output=True, text=True, timeout=HANG)
        self.assertEqual(done.returncode, 0)
        self.assertIn("Usage: fbi-llm train", done.stdout)


class Output(unittest.TestCase):
    def test_of_rank_0_as_it_is(self):
        done = launch(3, "echo out $RANK; echo err $RANK >&2")
        self.assertEqual((done.stdout, done.stderr), ("out 0\n", "err 0\n"))

    def test_of_all_ranks_line_by_line(self):
        done = launch(2, "printf 'a\\n\\nb'; printf 'c' >&2; printf '\\n' >&2", "--output", "all")
        for rank in range(2):
            self.assertEqual([line for line in done.stdout.splitlines() if line.startswith(f"[{rank}]")],
                             [f"[{rank}] a", f"[{rank}] ", f"[{rank}] b"])
        self.assertEqual(sorted(done.stderr.splitlines()), ["[0] c", "[1] c"])

    def test_much_of_it(self):
        done = launch(2, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done", "--output", "all")
        for rank in range(2):
            mine = [line for line in done.stdout.splitlines() if line.startswith(f"[{rank}] ")]
            self.assertEqual(mine, [f"[{rank}] {i}" for i in range(20000)])

    def test_last_words_of_the_rank_that_failed(self):
        done = launch(3, "echo hello $RANK >&2; [ $RANK != 2 ] || exit 3; exec sleep 1000", code=3)
        self.assertIn("[2] hello 2\n", done.stderr)
        self.assertNotIn("hello 1", done.stderr)
        self.assertRegex(done.stderr, r"rank 2 \(process \d+\) ended with exit code 3")


class End(unittest.TestCase):
    def test_one_fails_and_all_end(self):
        for rank in (0, 2):
            launch(3, f"[ $RANK != {rank} ] || exit 4; exec sleep 1000", code=4)

    def test_a_failure_of_its_own_counts_before_a_lost_peer_and_that_before_a_stop(self):
        for codes, whole in (((0, 0, 0), 0), ((75, 0, 75), 75), ((0, 5, 75), 5), ((5, 3, 75), 3)):
            with self.subTest(codes):
                cases = "".join(f"{rank}) exit {code};; " for rank, code in enumerate(codes))
                # Nobody ends before all are there: each leaves a mark and waits for the others.
                with tempfile.TemporaryDirectory() as folder:
                    script = f"trap '' TERM; : >{folder}/$RANK; while [ $(ls {folder} | wc -l) -lt 3 ]; do sleep 0.01; done; case $RANK in {cases}esac"
                    launch(3, script, code=whole)

    def test_a_rank_that_was_killed(self):
        done = launch(2, "[ $RANK = 0 ] || kill -9 $$; exec sleep 1000", code=137)
        self.assertRegex(done.stderr, r"rank 1 \(process \d+\) was ended by signal 9 \(Killed\)")
        # The others then report a lost peer, which is not what went wrong.
        launch(2, "[ $RANK = 0 ] || kill -9 $$; trap 'exit 5' TERM; while :; do sleep 0.01; done", code=137)

    def test_a_rank_that_does_not_end_is_killed_after_the_grace_time(self):
        script = "trap '' TERM; [ $RANK != 1 ] || exit 6; while :; do sleep 0.01; done"
        launch(3, script, "--grace-seconds", "0.2", code=6)

    def test_a_rank_that_is_stopped_is_killed_too(self):
        launch(2, "[ $RANK != 1 ] || exit 5; kill -STOP $$", "--grace-seconds", "0.2", code=5)

    def test_time_for_a_clean_end(self):
        with tempfile.TemporaryDirectory() as folder:
            saver = f"trap 'echo saved >{folder}/state; exit 75' TERM; : >{folder}/ready; while :; do sleep 0.01; done"
            launch(2, f"if [ $RANK = 0 ]; then {saver}; fi; while [ ! -e {folder}/ready ]; do sleep 0.01; done; exit 7", code=7)
            self.assertEqual((pathlib.Path(folder) / "state").read_text(), "saved\n")


class Signals(unittest.TestCase):
    def start(self, ranks, script):
        process = subprocess.Popen(command(ranks, script, "--output", "all"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup ignores it
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        pids = [int(process.stdout.readline().split()[-1]) for _ in range(ranks)]  # each script prints its own first
        return process, pids

    def test_are_passed_on(self):
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(number.name):
                process, _ = self.start(3, f"trap 'echo got it; exit 75' {number.name[3:]}; echo $$; while :; do sleep 0.01; done")
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=HANG), 75)
                self.assertEqual(sorted(process.stdout.read().splitlines()), [f"[{rank}] got it" for rank in range(3)])

    def test_a_second_interrupt_kills(self):
        process, pids = self.start(2, "trap 'echo once' INT; echo $$; while :; do sleep 0.01; done")
        process.send_signal(signal.SIGINT)
        for _ in range(2):
            self.assertIn("once", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=HANG), 137)
        self.assertFalse(any(map(alive, pids)))

    def test_nobody_outlives_a_launcher_that_is_killed(self):
        process, pids = self.start(3, "trap '' TERM INT HUP; echo $$; while :; do sleep 0.01; done")
        self.assertTrue(all(map(alive, pids)))
        process.kill()
        wait_until(lambda: not any(map(alive, pids)), "no process is left")

    def test_one_that_comes_while_libraries_load(self):
        # A rank of this program that gets it before its handlers are there stops as soon as they are: it is not lost.
        with tempfile.TemporaryDirectory() as folder:
            words = [PROGRAM, "launch", "--nproc", "1", "--", "train", "--config", "absent.json", "--run-dir", "run"]
            process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: children.read_text().split() or process.poll() is not None, "a rank")
            process.send_signal(signal.SIGUSR2)
            output = process.communicate(timeout=HANG)
            self.assertEqual(process.returncode, 2, output)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
