"""The checkers of layers, tree rules and format find what is planted, and nothing in a clean tree."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"

CLEAN = {
    "src/CMakeLists.txt": "set(modules core text)  # lowest first\nif(FBI_TORCH)\n  list(APPEND modules nn)\nendif()\n",
    "src/core/CMakeLists.txt": "fbi_module(core SOURCES a.cpp)\n",
    "src/text/CMakeLists.txt": "fbi_module(text\n  SOURCES a.cpp\n  MODULES core  # not nn\n  LIBRARIES spdlog::spdlog)\n",
    "src/nn/CMakeLists.txt": "fbi_module(nn SOURCES a.cpp MODULES core text LIBRARIES LibTorch::LibTorch)\n",
    "include/fbi/core/a.h": "// What it is for.\n#pragma once\n#include <vector>\n",
    "include/fbi/text/a.h": '#pragma once\n#include "fbi/core/a.h"\n',
    "include/fbi/nn/a.h": "#pragma once\n#include <torch/types.h>\n",
    "src/text/a.cpp": '#include "fbi/text/a.h"\n\n#include "text/private.h"\n',
    "src/text/private.h": "#pragma once\n",
    "src/text/a.cu": '#include "text/private.h"\n',
    "src/nn/a.cpp": '#include "fbi/nn/a.h"\n\n#include <ATen/ATen.h>\n\n#include "fbi/text/a.h"\n',
    ".clang-format": (SCRIPTS.parent / ".clang-format").read_text(),
}


def run(script, changes):
    """(exit status, output) of a checker on the clean tree with some files changed or added."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in {**CLEAN, **changes}.items():
            path = pathlib.Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        done = subprocess.run([sys.executable, SCRIPTS / script, directory], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


class Planted(unittest.TestCase):
    def assert_found(self, script, name, text, message):
        status, output = run(script, {name: text})
        self.assertEqual(status, 1, output)
        self.assertIn(message, output)
        self.assertEqual(output.count("\n"), 1, output)


class Layers(Planted):
    def planted(self, name, text, message):
        self.assert_found("check_layers.py", name, text, message)

    def test_a_clean_tree_passes(self):
        self.assertEqual(run("check_layers.py", {}), (0, "layers: every include is allowed\n"))

    def test_include_of_a_module_that_is_not_listed(self):
        self.planted("src/core/a.cpp", '\n#include "fbi/text/a.h"\n',
                     "src/core/a.cpp:2: includes fbi/text/a.h, but text is not in MODULES of core")
        self.planted("include/fbi/core/b.h", "#pragma once\n#  include <fbi/nn/a.h>\n", "include/fbi/core/b.h:2: includes fbi/nn/a.h")

    def test_modules_names_a_higher_module(self):
        self.planted("src/core/CMakeLists.txt", "fbi_module(core SOURCES a.cpp MODULES text)\n",
                     "MODULES names text, which is not lower than this module")
        self.planted("src/text/CMakeLists.txt", "fbi_module(text SOURCES a.cpp MODULES core kore)\n", "MODULES names kore, which is no module")

    def test_torch_in_a_module_without_it(self):
        self.planted("src/text/b.cpp", "#include <torch/torch.h>\n", "text must build without LibTorch")
        self.planted("src/text/b.cpp", '#include "c10/util/BFloat16.h"\n', "text must build without LibTorch")
        self.planted("src/text/CMakeLists.txt", "fbi_module(text SOURCES a.cpp MODULES core LIBRARIES LibTorch::LibTorch)\n",
                     "links LibTorch::LibTorch, but")

    def test_private_header_of_another_module(self):
        self.planted("src/nn/b.cpp", '#include "text/private.h"\n', "src/nn/b.cpp:1: includes text/private.h: use the module's public header")
        self.planted("src/nn/b.cpp", '#include "../text/private.h"\n', "use the module's public header")
        self.planted("include/fbi/text/b.h", '#pragma once\n#include "text/private.h"\n', "which is not installed")

    def test_torch_in_a_cuda_file(self):
        self.planted("src/nn/b.cu", "#include <ATen/ATen.h>\n", "src/nn/b.cu:1: CUDA file sees ATen/ATen.h")
        self.planted("src/nn/b.cu", '#include "fbi/nn/a.h"\n', "CUDA file sees torch/types.h through fbi/nn/a.h")

    def test_a_folder_outside_the_build(self):
        self.planted("src/extra/a.h", "#pragma once\n", "src/extra: folder is no module")

    def test_a_module_without_its_call(self):
        status, output = run("check_layers.py", {"src/core/CMakeLists.txt": "add_library(core a.cpp)\n"})
        self.assertEqual(status, 1)
        self.assertIn("src/core/CMakeLists.txt: no fbi_module call", output)


class Tree(Planted):
    def planted(self, name, text, message):
        self.assert_found("check_tree.py", name, text, message)

    def test_a_clean_tree_passes(self):
        self.assertEqual(run("check_tree.py", {}), (0, "tree: all rules are kept\n"))

    def test_length(self):
        self.planted("src/core/a.cpp", "int a;\n" * 501, "src/core/a.cpp: 501 lines; 500 are the limit")
        self.assertEqual(run("check_tree.py", {"src/core/a.cpp": "int a;\n" * 500})[0], 0)

    def test_pragma_once(self):
        self.planted("include/fbi/core/b.h", "#include <vector>\n#pragma once\n", "b.h: a header begins with #pragma once")

    def test_words(self):
        self.planted("scripts/a.py", "# TO" "DO: later\n", "scripts/a.py:1: TO" "DO is left for later")
        self.planted("configs/a.json", '{"path": "/ho' 'me/me/data"}\n', "is a path of one machine")

    def test_blanks(self):
        self.planted("src/core/a.cpp", "int a; \n", "blanks at the end of the line")
        self.planted("src/core/a.cpp", "int a;\r\n", "carriage returns")


class Format(Planted):
    def test_a_clean_tree_passes_and_others_do_not(self):
        status, output = run("check_format.py", {})
        if status == 77:
            self.skipTest(output)
        self.assertEqual((status, output), (0, "format: all files are formatted\n"))
        for name in ("src/core/a.cpp", "include/fbi/core/a.h", "src/text/a.cu"):
            self.assert_found("check_format.py", name, "int  a;\n", f"{name}: clang-format")


if __name__ == "__main__":
    unittest.main()
