"""The quickstart's corpus: the same bytes everywhere, no story twice, nothing left unfilled."""
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "make_stories.py"


def make(directory, *options):
    out = pathlib.Path(directory) / "stories.txt"
    done = subprocess.run([sys.executable, SCRIPT, "--out", out, *options], capture_output=True, text=True)
    return done, out


class MakeStories(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        done, out = make(cls.directory.name, "--bytes", "1000000")
        assert done.returncode == 0, done.stderr
        cls.summary, cls.bytes = done.stdout, out.read_bytes()
        cls.stories = cls.bytes.decode("ascii").split("\n\n")[:-1]

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def test_the_text_is_a_function_of_the_seed_alone(self):
        # A change here means that the quickstart's numbers in the documents are measured anew.
        self.assertEqual(hashlib.sha256(self.bytes[:100_000]).hexdigest()[:16], "608dce12d0b0716c")
        with tempfile.TemporaryDirectory() as directory:
            _, out = make(directory, "--bytes", "20000")
            self.assertEqual(out.read_bytes(), self.bytes[:out.stat().st_size])
            _, out = make(directory, "--bytes", "20000", "--seed", "2")
            self.assertNotEqual(out.read_bytes()[:1000], self.bytes[:1000])

    def test_size_is_what_was_asked_for(self):
        self.assertGreaterEqual(len(self.bytes), 1_000_000)
        self.assertLess(len(self.bytes), 1_002_000)  # one story more at most
        self.assertIn(f"{len(self.stories)} stories, {len(self.bytes)} bytes", self.summary)

    def test_no_story_occurs_twice(self):
        self.assertEqual(len(set(self.stories)), len(self.stories))

    def test_documents_are_single_lines_of_finished_sentences(self):
        for story in self.stories:
            self.assertNotIn("\n", story)
            self.assertIsNone(re.search(r"[][{}|]|  | [.,!?]|\.\.", story), story)
            self.assertRegex(story, r'^[A-Z].*[.!"]$')
            self.assertTrue(300 < len(story) < 2000, story)

    def test_gifts_add_up(self):
        number = {word: k for k, word in enumerate("no one two three four five six seven eight nine".split())}
        checked = 0
        for story in self.stories:
            counted = re.search(r"counted them: ([a-z, ]+)[.!]", story)
            split = re.search(r"had (\w+) \w+ and \w+ had (\w+) \w+\.", story)
            if counted and split:
                checked += 1
                self.assertEqual(len(counted.group(1).split(", ")), number[split.group(1)] + number[split.group(2)], story)
        self.assertGreater(checked, 5)

    def test_words_are_many_but_few_enough_for_a_small_model(self):
        words = set(re.findall(r"[a-z']+", " ".join(self.stories).lower()))
        self.assertTrue(700 < len(words) < 1500, len(words))

    def test_bad_options_are_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            done, out = make(directory, "--bytes", "0")
            self.assertEqual(done.returncode, 2)
            self.assertIn("--bytes must be positive", done.stderr)
            self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
