"""Ranks as real processes, and everything that can go wrong between them: a rank that is killed, stopped, signalled, told something
else than the others, or that cannot find them.  Usage: faults_test.py PATH-OF-FBI-LLM [unittest arguments]"""
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import small_job  # noqa: E402
from ports import reserve_port  # noqa: E402
from processes import HANG, alive, wait_until  # noqa: E402

PROGRAM = None
WORK = None
ENDLESS = "train.steps=1000000"
LONGER = "train.steps=200"  # than what a held run does
F_SETPIPE_SZ = 1031  # Linux; fcntl has it from Python 3.10 on
THREE = "train.global_batch=6"  # divides among three ranks


def setUpModule():
    global WORK
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="fbi-faults-test-"))
    small_job.write_job(WORK, steps=40)


def tearDownModule():
    shutil.rmtree(WORK)


class Rank:
    """One process of `fbi-llm train`. If it is `held`, what it prints goes into a pipe that holds some 70 lines of steps: there it waits until
    end() reads them."""

    def __init__(self, test, rank, size, port, run_dir, *sets, words=(), held=False, **variables):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **variables}
        command = [PROGRAM, "train", "--config", "config.json", "--run-dir", run_dir, *words]
        for change in sets:
            command += ["--set", change]
        if held:
            read, write = os.pipe()
            if fcntl.fcntl(write, F_SETPIPE_SZ, 8192) > 8192:
                test.skipTest("a page of this machine holds more lines than the run has steps")
            self.output, printed = open(read), open(write, "w")
        else:
            self.output = printed = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, cwd=WORK, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
        if held:
            printed.close()
        test.addCleanup(self.output.close)
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.kill)

    def end(self):
        """Exit code, and all that was printed."""
        if not self.output.seekable():
            texts = []
            reader = threading.Thread(target=lambda: texts.append(self.output.read()), daemon=True)
            reader.start()
            self.process.wait(timeout=HANG)
            reader.join(HANG)
            return self.process.returncode, texts[0]
        self.process.wait(timeout=HANG)
        self.output.seek(0)
        return self.process.returncode, self.output.read()


class Faults(unittest.TestCase):
    def port(self):
        number, reserved = reserve_port()
        self.addCleanup(reserved.close)
        return number

    def start(self, size, run_dir, *sets, **options):
        port = self.port()
        return [Rank(self, rank, size, port, run_dir, *sets, **options) for rank in range(size)]

    def start_held(self, size, run_dir, *sets):
        """A run that stands still after some 70 steps, so that it cannot end before something is done to it."""
        port = self.port()
        ranks = [Rank(self, rank, size, port, run_dir, "log.every_steps=1", *sets, held=rank == 0) for rank in range(size)]
        self.wait_for_steps(ranks, run_dir, 12)
        return ranks

    def start_launch(self, run_dir, *words, grace=1):
        command = [PROGRAM, "launch", "--nproc", "2", "--grace-seconds", str(grace), "--output", "all", "--", "train", "--config", "config.json",
                   "--run-dir", run_dir, "--set", ENDLESS, *words]
        output = tempfile.TemporaryFile("w+")
        process = subprocess.Popen(command, cwd=WORK, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"},
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup ignores it
        self.addCleanup(output.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_until(lambda: small_job.steps_done(WORK / run_dir) >= 3 or process.poll() is not None, "some steps")
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pids = sorted(map(int, children), key=lambda pid: int(re.search(rb"\0RANK=(\d+)\0", pathlib.Path(f"/proc/{pid}/environ").read_bytes())[1]))
        self.assertEqual(len(pids), 2)
        return process, pids, output

    def end(self, process, pids, output):
        process.wait(timeout=HANG)
        output.seek(0)
        wait_until(lambda: not any(map(alive, pids)), "no process is left")
        return process.returncode, output.read()

    def wait_for_steps(self, ranks, run_dir, steps=3):
        wait_until(lambda: small_job.steps_done(WORK / run_dir) >= steps or any(rank.process.poll() is not None for rank in ranks), "some steps")
        self.assertEqual([rank.process.poll() for rank in ranks], [None] * len(ranks), [rank.end() for rank in ranks if rank.process.poll() is not None])

    def assert_lost(self, number, rank, victim):
        code, text = rank.end()
        self.assertEqual(code, 5, text)
        self.assertRegex(text, rf"step \d+, rank {number}: .*rank {victim} \(process \d+ on \S+\) .*was lost or stands still")
        self.assertIn("--resume auto", text)
        self.assertNotIn("frame #", text)  # LibTorch's warnings


class Lost(Faults):
    def test_a_killed_rank_ends_all_others(self):
        for victim in (0, 2):
            with self.subTest(victim):
                name = f"killed-{victim}"
                ranks = self.start(4 if victim else 2, name, ENDLESS)
                self.wait_for_steps(ranks, name)
                ranks[victim].process.kill()
                for number, rank in enumerate(ranks):
                    if number != victim:
                        self.assert_lost(number, rank, victim)

    def test_an_error_of_one_rank_is_told_to_the_other(self):
        lines = (WORK / "samples.jsonl").read_text().splitlines()[:64]
        lines[7] = json.dumps({"token_ids": [1] + [small_job.VOCAB] * small_job.SEQ_LEN})
        (WORK / "with-a-wrong-id.jsonl").write_text("\n".join(lines) + "\n")
        ends = [rank.end() for rank in self.start(2, "wrong-id", "data.paths=with-a-wrong-id.jsonl")]
        reader, other = (0, 1) if ends[0][0] == 3 else (1, 0)
        self.assertEqual((ends[reader][0], ends[other][0]), (3, 5), ends)
        self.assertIn("with-a-wrong-id.jsonl, line 8", ends[reader][1])
        self.assertRegex(ends[other][1], rf"rank {reader} \(process \d+ on \S+\) has ended: .*with-a-wrong-id\.jsonl, line 8")

    def test_the_run_then_continues_where_its_last_checkpoint_is(self):
        ranks = self.start(2, "whole", LONGER)
        self.assertEqual([rank.end()[0] for rank in ranks], [0, 0])
        often = "checkpoint.every_steps=5"
        ranks = self.start_held(2, "again", often, LONGER)
        ranks[1].process.kill()
        self.assertEqual(ranks[0].end()[0], 5)
        ranks = self.start(2, "again", often, LONGER, words=["--resume", "auto"])
        self.assertEqual([rank.end()[0] for rank in ranks], [0, 0])
        self.assertEqual(small_job.what_was_computed(WORK / "again"), small_job.what_was_computed(WORK / "whole"))


class Still(Faults):
    """Ranks that stand still end all others after 20 seconds without a sign of life, and after parallel.timeout_seconds when they give signs of
    life. The groups wait at the same time."""

    def stop_one_of(self, size, run_dir, victim, *sets):
        ranks = self.start(size, run_dir, ENDLESS, *sets)
        self.wait_for_steps(ranks, run_dir)
        ranks[victim].process.send_signal(signal.SIGSTOP)
        return ranks

    def test_all_others_end(self):
        silent = [self.stop_one_of(2, f"silent-{victim}", victim) for victim in (0, 1)]
        three = self.stop_one_of(3, "still-0", 0, THREE)  # with rank 0 the place where ranks meet stands still
        process, pids, output = self.start_launch("launched-still")
        os.kill(pids[0], signal.SIGSTOP)
        living = self.start_held(2, "living", ENDLESS, "parallel.timeout_seconds=12")
        with self.subTest("lives but does not come"):
            code, text = living[1].end()
            self.assertEqual(code, 5, text)
            self.assertRegex(text, r"step \d+, rank 1: .*rank 0 \(process \d+ on \S+\) lives but stands still")
            self.assertEqual(living[0].end()[0], 5)
        with self.subTest("rank 0 of 3"):
            for number in (1, 2):
                self.assert_lost(number, three[number], 0)
        for victim, ranks in enumerate(silent):
            with self.subTest("no sign of life", victim=victim):
                self.assert_lost(1 - victim, ranks[1 - victim], victim)
                ranks[victim].process.send_signal(signal.SIGCONT)  # it finds the other gone
                self.assert_lost(victim, ranks[victim], 1 - victim)
        with self.subTest("launched"):
            code, text = self.end(process, pids, output)
            self.assertEqual(code, 5, text)
            self.assertRegex(text, r"\[1\] .*step \d+, rank 1: .*rank 0 \(process \d+ on \S+\) is not reachable: it was lost or stands still")


class Launched(Faults):
    def test_a_killed_rank(self):
        process, pids, output = self.start_launch("launched-killed", grace=30)  # the other looks for two seconds who is missing
        os.kill(pids[1], signal.SIGKILL)
        code, text = self.end(process, pids, output)
        self.assertEqual(code, 137, text)
        self.assertRegex(text, r"\[0\] .*step \d+, rank 0: .*rank 1 \(process \d+ on \S+\) was lost")
        self.assertRegex(text, r"rank 1 \(process \d+\) was ended by signal 9 \(Killed\)")

    def test_a_killed_launcher_leaves_no_rank_behind(self):
        process, pids, output = self.start_launch("launched-orphans")
        process.kill()
        self.end(process, pids, output)

    def test_a_signal_reaches_all(self):
        for number in (signal.SIGUSR1, signal.SIGHUP):
            with self.subTest(number.name):
                process, pids, output = self.start_launch(f"launched-{number.name}")
                process.send_signal(number)
                code, text = self.end(process, pids, output)
                self.assertEqual(code, 75, text)
                self.assertIn(f"stopped by signal {number.value}", text)


class Signalled(Faults):
    def test_a_signal_to_one_rank_stops_all_at_the_same_step_and_the_run_continues_bit_for_bit(self):
        ranks = self.start(2, "unstopped", LONGER)
        self.assertEqual([rank.end()[0] for rank in ranks], [0, 0])
        whole = small_job.what_was_computed(WORK / "unstopped")
        for victim, number in ((1, signal.SIGUSR2), (0, signal.SIGTERM)):
            with self.subTest(victim):
                name = f"stopped-{victim}"
                ranks = self.start_held(2, name, LONGER)
                ranks[victim].process.send_signal(number)
                ends = [rank.end() for rank in ranks]
                self.assertEqual([code for code, _ in ends], [75, 75], ends)
                steps = small_job.steps_done(WORK / name)
                self.assertEqual([path.name for path in (WORK / name / "checkpoints").iterdir()], [f"step-{steps:08}"])
                ranks = self.start(2, name, LONGER, words=["--resume", "auto"])
                self.assertEqual([rank.end()[0] for rank in ranks], [0, 0])
                self.assertEqual(small_job.what_was_computed(WORK / name), whole)


class NotFinite(Faults):
    SPECIAL = 319  # an id that one sample holds

    def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(self):
        (WORK / "one-step").mkdir()
        code = subprocess.run([PROGRAM, "train", "--config", "config.json", "--run-dir", "one-step/run", "--set", "train.steps=2"], cwd=WORK,
                              capture_output=True).returncode
        self.assertEqual(code, 0)
        subprocess.run([PROGRAM, "export", "--checkpoint", "one-step/run", "--format", "native", "--out", "spoiled"], cwd=WORK, check=True,
                       capture_output=True)
        self.spoil_embedding(WORK / "spoiled/model.safetensors")
        lines = (WORK / "samples.jsonl").read_text().splitlines()
        (WORK / "with-one.jsonl").write_text("\n".join([*lines[:7], json.dumps({"token_ids": [1] + [self.SPECIAL] * small_job.SEQ_LEN}), *lines[8:160]]) + "\n")
        ranks = self.start(2, "skips", "train.steps=20", "optimizer.warmup_steps=1", "train.init_from=spoiled", "data.paths=with-one.jsonl")
        ends = [rank.end() for rank in ranks]
        self.assertEqual([code for code, _ in ends], [0, 0], ends)
        skipped = [line["step"] for line in small_job.what_was_computed(WORK / "skips") if line["skipped"]]
        self.assertEqual(len(skipped), 1)  # 20 steps of 8 samples are all the samples once

    def spoil_embedding(self, path):
        data = bytearray(path.read_bytes())
        length, = struct.unpack_from("<Q", data)
        tensor = json.loads(data[8:8 + length])["model.embed_tokens.weight"]
        self.assertEqual((tensor["dtype"], tensor["shape"]), ("F32", [small_job.VOCAB, 32]))
        row = 8 + length + tensor["data_offsets"][0] + self.SPECIAL * 32 * 4
        struct.pack_into("<32f", data, row, *[float("nan")] * 32)
        path.write_bytes(data)


class Meeting(Faults):
    """Ranks that cannot come together: the reason on every one, and exit 2, or 5 where another start may help. All at once, because ranks wait
    for each other."""

    def test_every_rank_says_why(self):
        cases = []  # (what, ranks, parts of what each rank says)

        def rank_of(*words, **options):
            return Rank(self, *words, "parallel.timeout_seconds=20", **options)

        def case(what, ranks, *parts):
            cases.append((what, ranks, parts))

        port = self.port()
        case("world sizes differ", [rank_of(0, 2, port, "never"), rank_of(1, 4, port, "never")],
             "was started as one of 4 ranks, rank 0 as one of 2")
        port = self.port()
        case("a rank is there twice", [rank_of(rank, 3, port, "never", THREE) for rank in (0, 1, 1)], "both are rank 1")
        port = self.port()
        case("a rank is missing", [rank_of(rank, 3, port, "never", THREE) for rank in (0, 2)], "of 3 ranks only 2 arrived in time; missing: 1")
        port = self.port()
        case("configurations differ", [rank_of(0, 3, port, "never", THREE), rank_of(1, 3, port, "never", THREE),
                                       rank_of(2, 3, port, "never", THREE, "optimizer.lr=0.5")],
             "ranks disagree in configuration", "but rank 2 (process")
        with socket.socket() as occupied:
            occupied.bind(("", 0))
            occupied.listen()
            port = occupied.getsockname()[1]
            case("the port is in use", [rank_of(0, 2, port, "never")], f"rank 0 can't listen at 127.0.0.1:{port}", "MASTER_PORT")
            case("somebody else answers", [rank_of(1, 2, port, "never")], f"127.0.0.1:{port}")
            port = self.port()
            case("nobody answers", [rank_of(1, 2, port, "never")], f"rank 1 can't reach rank 0 at 127.0.0.1:{port}")
            case("rank 0 is on no machine", [rank_of(1, 2, port, "never", MASTER_ADDR="no-such-host.invalid")], "can't reach rank 0 at no-such-host.invalid")
            case("the batch does not divide", self.start(3, "never"), "train.global_batch = 8: expected a multiple of 6 (micro_batch 2 x 3 ranks)")
            case("Slurm says something else than the flags",
                 [rank_of(0, 2, port, "never", words=["--world-size", "3"], RANK="", WORLD_SIZE="", LOCAL_RANK="", SLURM_JOB_ID="5", SLURM_PROCID="0",
                       SLURM_STEP_ID="0", SLURM_LOCALID="0", SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1")], "--world-size=3", "SLURM_STEP_NUM_TASKS=2")
            case("variables are no numbers", [rank_of(0, 2, port, "never", RANK="first")], 'RANK: expected a whole number', '"first"')
            case("a rank beyond the last", [rank_of(2, 2, port, "never")], "expected a rank in [0, 2)")
            for what, ranks, parts in cases:
                for rank in ranks:
                    with self.subTest(what):
                        code, text = rank.end()
                        late = what in ("a rank is missing", "somebody else answers", "nobody answers", "rank 0 is on no machine")
                        self.assertEqual(code, 5 if late else 2, text)
                        for part in parts:
                            self.assertIn(part, text)
        self.assertFalse((WORK / "never").exists())


    def test_a_stop_is_heeded_while_others_are_awaited(self):
        port = self.port()
        for rank in (1, 0):
            with self.subTest(rank=rank):
                waiting = Rank(self, rank, 2, port, "never")

                def handles_the_signal():
                    caught = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{waiting.process.pid}/status").read_text())
                    return waiting.process.poll() is not None or int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1
                wait_until(handles_the_signal, "the signal is handled")
                waiting.process.send_signal(signal.SIGTERM)
                code, text = waiting.end()
                self.assertEqual(code, 75, text)
                self.assertIn("stopped by signal 15 before all ranks had met", text)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
