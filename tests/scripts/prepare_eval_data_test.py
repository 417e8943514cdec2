"""scripts/prepare_eval_data.py joins rows as the published evaluation does."""
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/prepare_eval_data.py"


class PrepareEvalData(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        self.addCleanup(self.temporary.cleanup)

    def run_script(self, *words, code=0):
        done = subprocess.run([sys.executable, SCRIPT, *map(str, words), "--out", self.folder / "out.txt"], capture_output=True, text=True,
                              env={**os.environ, "HF_HUB_CACHE": str(self.folder / "cache")})
        self.assertEqual(done.returncode, code, done.stderr)
        return (self.folder / "out.txt").read_bytes().decode() if code == 0 else done.stderr

    def write(self, name, text):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return self.folder / name

    def test_wikitext_keeps_line_breaks_and_empty_rows(self):
        source = self.write("wiki.test.raw", " \n = Robert = \n \n He acted . \n")
        self.assertEqual(self.run_script("wikitext2", "--from", source), "\n\n = Robert = \n\n\n\n\n He acted . \n")

    def test_ptb_sentences_are_joined_by_spaces(self):
        source = self.write("ptb.test.txt", " no it was n't \n but \n\n")
        self.assertEqual(self.run_script("ptb", "--from", source), "no it was n't but")

    def test_c4_takes_the_first_documents_also_from_the_cache(self):
        lines = "".join(json.dumps({"text": f"d{i}\n", "url": ""}) + "\n" for i in range(1101))
        self.write("cache/datasets--allenai--c4/snapshots/1/en/c4-validation.00000-of-00008.json.gz", lines)
        text = self.run_script("c4")
        self.assertTrue(text.startswith("d0\n d1\n d2\n"))
        self.assertTrue(text.endswith(" d1099\n"))

    def test_ptb_is_found_in_either_form_of_the_cache(self):
        snapshot = "cache/datasets--ptb-text-only--ptb_text_only/snapshots/1"
        parquet = self.write(f"{snapshot}/penn_treebank/test/0000.parquet", "broken")
        self.write(f"{snapshot}/penn_treebank/train/0000.parquet", "broken")
        self.assertNotIn("--from", self.run_script("ptb", code=1))  # it is found, though it is no parquet file
        parquet.unlink()
        self.write(f"{snapshot}/data/ptb.test.txt", " no it was n't \n but \n")
        self.assertEqual(self.run_script("ptb"), "no it was n't but")

    def test_refusals(self):
        refusal = self.run_script("ptb", code=1)
        for part in ("*test*", "**/test/*.parquet", "give the file with --from"):
            self.assertIn(part, refusal)
        self.assertIn("there is no file", self.run_script("ptb", "--from", "absent", code=1))
        short = self.write("c4.json", '{"text": "a"}\n')
        self.assertIn("expected 1100 rows, found 1", self.run_script("c4", "--from", short, code=1))
        broken = self.write("c4-broken.json", '{"text": "a"}\n{}\n')
        self.assertIn("line 2: expected a JSON object with the field text", self.run_script("c4", "--from", broken, code=1))


if __name__ == "__main__":
    unittest.main()
