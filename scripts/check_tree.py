#!/usr/bin/env python3
"""Checks rules that every file of the tree keeps.

  - no file of src and include has more than 500 lines;
  - headers begin with #pragma once (after a comment);
  - nothing is left for later: none of the words that mark it, in code, scripts or tests;
  - no path of somebody's machine, no carriage returns, no blanks at line ends.
Prints one line per violation; exit status 1 when there is one.
"""
import argparse
import pathlib
import re
import sys

FOLDERS = ["cmake", "configs", "examples", "include", "scripts", "src", "tests", "third_party"]
SUFFIXES = {".h", ".hpp", ".cuh", ".cpp", ".cu", ".py", ".sh", ".cmake", ".json", ".in", ".txt", ".md"}
MAX_LINES = 500
# Spelled in parts, so that this file passes its own check.
LEFT_FOR_LATER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|not " r"implemented yet|Not" r"Implemented)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}/])/(?:home|Users|root|work)/\w")


def check_file(path, name):
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.splitlines()
    if name.startswith(("src/", "include/")) and len(lines) > MAX_LINES:
        yield f"{name}: {len(lines)} lines; {MAX_LINES} are the limit"
    if path.suffix in (".h", ".hpp", ".cuh"):
        code = re.sub(r"//.*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).split()
        if code[:2] != ["#pragma", "once"]:
            yield f"{name}: a header begins with #pragma once"
    for number, line in enumerate(lines, 1):
        for rule, what in ((LEFT_FOR_LATER, "is left for later"), (MACHINE_PATH, "is a path of one machine")):
            found = rule.search(line)
            if found:
                yield f"{name}:{number}: {found.group(0)} {what}"
        if line != line.rstrip(" \t"):
            yield f"{name}:{number}: blanks at the end of the line"
    if "\r" in text:
        yield f"{name}: carriage returns"


def check(root):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield from check_file(path, path.relative_to(root).as_posix())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=here, help="source folder (default: this one)")
    problems = list(check(parser.parse_args().root.resolve()))
    print("\n".join(problems) if problems else "tree: all rules are kept")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
