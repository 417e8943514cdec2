#!/usr/bin/env python3
"""Checks that modules include only what they may.

The list is the build's own: the order of modules is that of src/CMakeLists.txt, and fbi_module(... MODULES ...) of
each src/<module>/CMakeLists.txt names the modules whose headers it may include. Checked for every file of src and
include/fbi:
  - MODULES names lower modules only, and every module folder takes part in the build;
  - a header of another module is public ("fbi/<module>/...") and its module is in MODULES;
  - public headers include no private ones;
  - modules that build without LibTorch include none of its headers and link none of its targets;
  - CUDA files, and what they include, see no header of LibTorch.
Prints one line per violation; exit status 1 when there is one.
"""
import argparse
import pathlib
import re
import sys

SOURCES = {".h", ".hpp", ".cuh", ".inc", ".cpp", ".cc", ".cu"}
TORCH = ("torch/", "ATen/", "c10/", "caffe2/", "torch.h")
KEYWORDS = {"SOURCES", "MODULES", "LIBRARIES", "PRIVATE_LIBRARIES"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)


def cmake_words(text):
    return re.sub(r"#.*", "", text).replace(")", " ) ").replace("(", " ( ").split()


def module_order(root):
    """[(module, whether it needs LibTorch)], lowest first: the modules listed within if(FBI_TORCH) need it."""
    order, torch, words = [], False, cmake_words((root / "src/CMakeLists.txt").read_text())
    for i, word in enumerate(words):
        if word == "if" and words[i + 2] == "FBI_TORCH":
            torch = True
        elif word == "endif":
            torch = False
        elif word == "modules" and words[i - 1] in ("(", "APPEND") and words[i - 2] in ("set", "("):
            order += [(name, torch) for name in words[i + 1:words.index(")", i)]]
    return order


def module_rules(path):
    """{keyword: [values]} of the fbi_module call, with its name under "name"; None where there is no call."""
    words = cmake_words(path.read_text())
    if "fbi_module" not in words:
        return None
    start = words.index("fbi_module") + 2
    rules, key = {"name": words[start], **{k: [] for k in KEYWORDS}}, None
    for word in words[start + 1:words.index(")", start)]:
        if word in KEYWORDS:
            key = word
        elif key:
            rules[key].append(word)
    return rules


def includes(path):
    """[(line, header, whether in quotes)] of a file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [(text.count("\n", 0, m.start()) + 1, m.group(1) or m.group(2), bool(m.group(1))) for m in INCLUDE.finditer(text)]


class Checker:
    def __init__(self, root):
        self.root, self.problems = root, []
        self.order = module_order(root)
        self.names = [name for name, _ in self.order]
        self.rules = {}

    def complain(self, path, line, message):
        where = path.relative_to(self.root).as_posix()
        self.problems.append(f"{where}:{line}: {message}" if line else f"{where}: {message}")

    def check(self):
        for index, (name, torch) in enumerate(self.order):
            self.check_module(name, torch, self.names[:index])
        for parent in ("src", "include/fbi"):
            for folder in sorted(self.root.glob(parent + "/*/")):
                if folder.name not in self.names:
                    self.complain(folder, 0, "folder is no module of src/CMakeLists.txt")
        for name, torch in self.order:
            for path in self.files(name):
                self.check_file(path, name, torch)
        return self.problems

    def files(self, name):
        for folder in (self.root / "src" / name, self.root / "include/fbi" / name):
            yield from (p for p in sorted(folder.rglob("*")) if p.suffix in SOURCES)

    def check_module(self, name, torch, lower):
        path = self.root / "src" / name / "CMakeLists.txt"
        rules = module_rules(path) if path.exists() else None
        if rules is None:
            self.complain(path, 0, "no fbi_module call")
            rules = {k: [] for k in KEYWORDS}
        elif rules["name"] != name:
            self.complain(path, 0, f"the module is called {rules['name']}, its folder {name}")
        for module in rules["MODULES"]:
            if module not in lower:
                what = "is no module" if module not in self.names else "is not lower than this module"
                self.complain(path, 0, f"MODULES names {module}, which {what}")
        for library in rules["LIBRARIES"] + rules["PRIVATE_LIBRARIES"]:
            if not torch and library.startswith("LibTorch::"):
                self.complain(path, 0, f"links {library}, but the module must build without LibTorch")
        self.rules[name] = rules

    def check_file(self, path, name, torch):
        public = path.is_relative_to(self.root / "include")
        allowed = {name, *self.rules[name]["MODULES"]}
        for line, header, quoted in includes(path):
            parts = header.split("/")
            if parts[0] == "fbi" and len(parts) > 2:
                if parts[1] not in allowed:
                    self.complain(path, line, f"includes {header}, but {parts[1]} is not in MODULES of {name}")
            elif quoted and public:
                self.complain(path, line, f'a public header includes "{header}", which is not installed')
            elif ".." in parts or (quoted and parts[0] in self.names and parts[0] != name):
                self.complain(path, line, f"includes {header}: use the module's public header")
            if not torch and header.startswith(TORCH):
                self.complain(path, line, f"includes {header}, but {name} must build without LibTorch")
        if path.suffix in (".cu", ".cuh"):
            self.check_cuda(path)

    def check_cuda(self, path):
        seen, todo = set(), [(path, "")]
        while todo:
            file, through = todo.pop()
            for line, header, _ in includes(file):
                if header.startswith(TORCH):
                    self.complain(path, 0 if through else line, f"CUDA file sees {header}{through}")
                for base in (self.root / "include", self.root / "src", file.parent):
                    target = base / header
                    if target.is_file() and target not in seen:
                        seen.add(target)
                        todo.append((target, f" through {header}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=here, help="source folder (default: this one)")
    problems = Checker(parser.parse_args().root.resolve()).check()
    print("\n".join(problems) if problems else "layers: every include is allowed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
