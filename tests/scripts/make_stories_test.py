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
        self.assertEqual(hashlib.sha256(self.bytes[:100_000]).hexdigest()[:16], "6ddc76fbde098c5f")
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

    def test_a_story_has_two_people_and_ends(self):
        names = re.compile(r"\b(Mia|Anna|Ruby|Nora|Lucy|Tom|Ben|Leo|Sam|Max)\b")
        for story in self.stories:
            self.assertIn(len(set(names.findall(story))), (1, 2), story)
            self.assertTrue(story.endswith(" The end."), story)

    def test_things_keep_their_colour(self):
        for story in self.stories:
            toy = re.search(r"had an? (\w+) (ball|kite|hat|drum|doll|boat)\b", story)
            if toy:
                colours = set(re.findall(rf"\b(\w+) {toy.group(2)}\b", story)) & set("red blue green yellow".split())
                self.assertEqual(colours, {toy.group(1)}, story)

    def test_words_are_many_but_few_enough_for_a_small_model(self):
        words = set(re.findall(r"[a-z']+", " ".join(self.stories).lower()))
        self.assertTrue(300 < len(words) < 500, len(words))

    def test_bad_options_are_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            done, out = make(directory, "--bytes", "0")
            self.assertEqual(done.returncode, 2)
            self.assertIn("--bytes must be positive", done.stderr)
            self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
