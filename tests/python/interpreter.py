"""Finds the Python that scripts/deps.sh --python-tests makes."""
import os
import pathlib
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def interpreter():
    """Its path, whether it is there or not."""
    return pathlib.Path(os.environ.get("FBI_TEST_PYTHON") or REPOSITORY / ".deps/python-tests/bin/python")


def use_interpreter_with_transformers():
    """Starts the script anew with it, or ends with 77, which ctest counts as skipped."""
    chosen = interpreter()
    if not chosen.exists():
        print(f"skipped: there is no {chosen}; scripts/deps.sh --python-tests makes it (0.4 GB)")
        sys.exit(77)
    if os.environ.get("FBI_TEST_PYTHON_STARTED") != str(chosen):
        os.environ["FBI_TEST_PYTHON_STARTED"] = str(chosen)
        os.execv(chosen, [str(chosen), *sys.argv])
