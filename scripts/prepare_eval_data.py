#!/usr/bin/env python3
"""Makes the texts that published perplexities are measured on, for `fbi-llm eval perplexity --text`.

  wikitext2  WikiText-2, raw form, test split (Merity et al. 2016): `wiki.test.raw`, or the hub's Salesforce/wikitext,
             wikitext-2-raw-v1. Rows joined by two line breaks.
  ptb        Penn Treebank as prepared by Mikolov, test split: `ptb.test.txt`, or the hub's ptb_text_only. Sentences joined by a space.
  c4         C4, English (Raffel et al. 2019): the first 1,100 documents of `c4-validation.00000-of-00008.json.gz` of the hub's
             allenai/c4, joined by a space. Evaluate with --max-tokens 524288.

--from names such a file (text, .json, .json.gz, or .parquet, which needs the package pyarrow); without it the hub's cache is searched
($HF_HUB_CACHE, $HF_HOME/hub, ~/.cache/huggingface/hub). Nothing is downloaded.
"""
import argparse
import gzip
import json
import os
import pathlib
import sys

SETS = {
    "wikitext2": {"field": "text", "join": "\n\n", "cache": ["datasets--*wikitext/snapshots/*/wikitext-2-raw-v1/test-*.parquet"]},
    "ptb": {"field": "sentence", "join": " ", "cache": ["datasets--*ptb*/snapshots/*/**/*test*", "datasets--*ptb*/snapshots/*/**/test/*.parquet"]},
    "c4": {"field": "text", "join": " ", "rows": 1100, "cache": ["datasets--allenai--c4/snapshots/*/en/c4-validation.00000-of-*.json.gz"]},
}


def text_rows(name, lines):
    """The hub's rows of a text file: WikiText keeps line breaks and has empty rows, PTB neither."""
    for line in lines:
        if name == "wikitext2":
            yield line if line.strip() else ""
        elif line.strip():
            yield line.strip()


def rows_of(name, path):
    field = SETS[name]["field"]
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            sys.exit(f"{path}: reading .parquet needs the Python package pyarrow; install it, or give the file in its original form")
        yield from pyarrow.parquet.read_table(path, columns=[field]).column(field).to_pylist()
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as lines:
        if {".json", ".jsonl"} & set(path.suffixes):
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)[field]
                except (ValueError, KeyError, TypeError):
                    sys.exit(f"{path}, line {number}: expected a JSON object with the field {field}")
        else:
            yield from text_rows(name, lines)


def find_in_cache(name):
    home = os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache/huggingface"
    cache = pathlib.Path(os.environ.get("HF_HUB_CACHE") or pathlib.Path(home) / "hub")
    patterns = SETS[name]["cache"]
    found = sorted(path for pattern in patterns for path in cache.glob(pattern) if path.is_file())
    if not found:
        sys.exit(f"no {' and no '.join(patterns)} in {cache}; give the file with --from")
    return found[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    source = arguments.source or find_in_cache(arguments.name)
    if not source.is_file():
        sys.exit(f"there is no file {source}")
    wanted = SETS[arguments.name].get("rows")
    rows = []
    for row in rows_of(arguments.name, source):
        rows.append(row)
        if len(rows) == wanted:
            break
    if not rows or (wanted and len(rows) < wanted):
        sys.exit(f"{source}: expected {wanted or 'some'} rows, found {len(rows)}")
    arguments.out.write_text(SETS[arguments.name]["join"].join(rows), encoding="utf-8", newline="\n")
    print(f"{arguments.out}: {len(rows)} rows of {source}")


if __name__ == "__main__":
    main()
