"""Waiting for other processes."""
import pathlib
import time

HANG = 300  # seconds after which something hangs


def wait_until(condition, what, seconds=HANG, pause=0.01):
    """Fails, saying what it waited for, when `condition()` is still false after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(pause)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
