#!/usr/bin/env python3
"""Checks that clang-format, with the tree's .clang-format, would change no C++ file.

Versions differ in what they do, so that one counts: clang-format 14. Prints one line per file that it would change; exit
status 1 when there is one, 77 where that version is not installed.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys

FOLDERS = ["examples", "include", "src", "tests"]
SUFFIXES = {".h", ".cuh", ".cpp", ".cu"}
VERSION = "14"


def find_program():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
            if re.search(rf"version {VERSION}\.", said):
                return name
    return None


def deviating(program, root):
    """Files that would change, relative to the root."""
    files = [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).rglob("*"))
             if path.is_file() and path.suffix in SUFFIXES]
    done = subprocess.run([program, "--style=file", "--fallback-style=none", "--dry-run", "-Werror", *files], cwd=root, capture_output=True, text=True)
    found = sorted(set(re.findall(r"^([^:\n]+):\d+:\d+: error: ", done.stderr, re.MULTILINE)))
    if done.returncode and not found:
        raise RuntimeError(f"{program} failed:\n{done.stderr}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=here, help="source folder (default: this one)")
    root = parser.parse_args().root.resolve()
    program = find_program()
    if not program:
        print(f"skipped: clang-format {VERSION} is not installed")
        return 77
    problems = deviating(program, root)
    print("\n".join(f"{name}: {program} -i changes it" for name in problems) if problems else "format: all files are formatted")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
