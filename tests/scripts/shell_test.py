"""The shell scripts parse, explain themselves, refuse what they do not know, and find a broken installation."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
PROGRAMS = [p for p in sorted(SCRIPTS.glob("*.sh")) if p.name != "lib.sh"]


def bash(*command, **options):
    return subprocess.run(["bash", *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)


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


if __name__ == "__main__":
    unittest.main()
