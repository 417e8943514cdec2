#!/usr/bin/env python3
"""Writes the curves of runs for TensorBoard: event files, from each run's metrics.jsonl.

  scripts/to_tensorboard.py runs/a runs/b --out tb             as far as the runs have come
  scripts/to_tensorboard.py runs/a runs/b --out tb --follow    the same, and keeps up with them until Ctrl-C
  tensorboard --logdir tb                                      shows them, in another terminal

A run gets a folder of its name in --out, a file called otherwise than metrics.jsonl one within that. A run that has no step yet is
passed over, or with --follow waited for. The event file is written anew each time, and an earlier one emptied: no point is ever there
twice. A run that goes back to a checkpoint repeats steps: the later ones count, and --follow, too, writes such a run anew. Curves go
over steps. metrics.jsonl holds no time of day, so TensorBoard's clock counts training time alone, the sum of step_seconds, set so that
the last step falls on the file's last change.

The names of curves are those of metrics.jsonl (docs/formats.md), grouped:

  train           loss, loss_next_token, loss_distill, grad_norm, lr, tokens, skipped
  eval            perplexity/NAME, acc/NAME, acc_norm/NAME of each file or task, where the run has evaluation.every_steps
  signs           flips, flip_rate
  flip_rate_of    means of layer_flip_rates: of each projection (q_proj, ...) over the layers, of each layer over its projections
  speed           tokens_per_second, mfu (matrix_share), step_seconds, ...
  phase_seconds   what step_seconds went to
  memory          peak, and what it was for
  bytes_sent      several ranks only: what rank 0 sent

Needs the Python package tensorboard: python3 -m pip install tensorboard
"""
import argparse
import collections
import json
import os
import pathlib
import sys
import threading
import time

GROUPS = {
    "train": ("loss", "loss_next_token", "loss_distill", "grad_norm", "lr", "tokens", "skipped"),
    "signs": ("flips", "flip_rate"),
    "speed": ("step_seconds", "cpu_seconds", "tokens_per_second", "flops_per_second", "recompute_flops_per_second"),
    "memory": ("peak_memory_bytes", "peak_device_memory_bytes"),
}
TAGS = {"matrix_share": "speed/mfu", **{key: f"{group}/{key}" for group, keys in GROUPS.items() for key in keys}}
# Keys whose values are objects of numbers, and the group of these.
TABLES = {"phase_seconds": "phase_seconds", "memory_bytes": "memory", "bytes_sent": "bytes_sent"}

EVENT_FILE_ENDS_WITH = ".fbi-llm"  # only such files are ever emptied or removed
POLL_SECONDS = 2

Place = collections.namedtuple("Place", "step seconds begin size")  # of a line in metrics.jsonl


def scalars(line):
    """Name and value of each curve that has a point in this line; null is none."""
    named = [(tag, line.get(key)) for key, tag in TAGS.items()]
    for key, group in TABLES.items():
        named += [(f"{group}/{name}", value) for name, value in line.get(key, {}).items()]
    named += mean_flip_rates(line.get("layer_flip_rates", {}))
    for data, found in line.get("evaluation", {}).items():
        named += [(f"eval/{metric}/{data}", value) for metric, value in found.items()]
    return [(tag, value) for tag, value in named if isinstance(value, (int, float))]


def mean_flip_rates(rates):
    """By projection and by layer: a curve for each weight would be hundreds, and take most of the time."""
    groups = collections.defaultdict(list)
    for name, rate in rates.items():  # model.layers.0.self_attn.q_proj.weight
        _, _, layer, _, projection, _ = name.split(".")
        groups[projection].append(rate)
        groups[f"layer_{layer}"].append(rate)
    return [(f"flip_rate_of/{name}", sum(group) / len(group)) for name, group in groups.items()]


def parsed(text):
    """A line as an object, or None when it is no line of metrics."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


class Run:
    """One run's event file, and how far metrics.jsonl is in it."""

    def __init__(self, metrics, folder, library):
        self.metrics, self.folder, self.library = metrics, folder, library
        self.writer = self.events = None
        self.start_over()

    def start_over(self):
        if self.writer:
            print(f"{self.folder}: the run went back to an earlier step; written anew", flush=True)
            self.writer.close()
        self.writer, self.step = None, -1
        self.line_count = self.end = 0  # of what was read
        self.last_line = b""  # as it was read, up to `end`
        self.start_time = self.training_seconds = 0.0

    def close(self):
        if self.writer:
            self.writer.close()

    def update(self):
        """Writes the steps that are new, or all of them anew when the file has changed before its end. Returns how many it wrote."""
        if self.writer and not (self.events.exists() and self.events.stat().st_size):
            sys.exit(f"{self.events} was emptied or removed: does another {pathlib.Path(__file__).name} write into {self.folder}?")
        with self.metrics.open("rb") as file:
            file.seek(self.end - len(self.last_line))
            if file.read(len(self.last_line)) != self.last_line:  # cut when the run was continued
                self.start_over()
            places = self.new_places(file)
            if places and places[0].step <= self.step:
                self.start_over()
                places = self.new_places(file)
            if places and not self.writer:
                self.open_events(os.fstat(file.fileno()).st_mtime - sum(place.seconds for place in places))
            for place in places:
                file.seek(place.begin)
                text = file.read(place.size)
                line = parsed(text)
                if line is None or line["step"] != place.step:  # cut since it was found, in this moment
                    self.start_over()
                    return self.update()
                self.write(line, place)
                self.last_line = text
        if places:
            self.writer.flush()
        return len(places)

    def new_places(self, file):
        """The whole lines from `end` on, without those that a later line, of the same step or an earlier one, makes void."""
        file.seek(self.end)
        places = []
        for text in file:
            if not text.endswith(b"\n"):  # being written
                break
            self.line_count += 1
            line = parsed(text)
            if line is None:
                sys.exit(f"{self.metrics}:{self.line_count}: not a line of metrics")
            while places and places[-1].step >= line["step"]:
                places.pop()
            places.append(Place(line["step"], line.get("step_seconds") or 0.0, self.end, len(text)))
            self.end += len(text)
        return places

    def open_events(self, start_time):
        self.folder.mkdir(parents=True, exist_ok=True)
        old_files = self.event_files()
        # Removed only when empty: without its fast loader, an open TensorBoard never goes on from a file that is gone.
        for old in old_files:
            if old.stat().st_size:
                os.truncate(old, 0)
            else:
                old.unlink()
        self.writer = self.library.EventFileWriter(str(self.folder), filename_suffix=EVENT_FILE_ENDS_WITH)
        (self.events,) = self.event_files() - old_files
        self.start_time = start_time
        # An open TensorBoard has read the points of the old file: this makes it forget them.
        start = self.library.SessionLog(status=self.library.SessionLog.START)
        self.writer.add_event(self.library.Event(session_log=start, wall_time=start_time))

    def event_files(self):
        return set(self.folder.glob(f"events.out.tfevents.*{EVENT_FILE_ENDS_WITH}"))

    def write(self, line, place):
        self.step = place.step
        self.training_seconds += place.seconds
        event = self.library.Event(step=place.step, wall_time=self.start_time + self.training_seconds)
        for tag, value in scalars(line):
            event.summary.value.add(tag=tag, simple_value=value)
        self.writer.add_event(event)


def load_library():
    """What is used of the package tensorboard."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        sys.exit(f"{error}; install TensorBoard: python3 -m pip install tensorboard")
    return argparse.Namespace(Event=Event, SessionLog=SessionLog, EventFileWriter=EventFileWriter)


def metrics_files(runs):
    """The metrics.jsonl of each run, and the run's name: the last part of its path, or where two have the same what differs."""
    files = [run / "metrics.jsonl" if run.is_dir() else run for run in runs]
    files = list({os.path.abspath(file): file for file in files}.values())
    # A folder may hold several files, but of one name only one: no two of these are the same.
    paths = [pathlib.Path(os.path.abspath(file)) for file in files]
    paths = [path.parent if path.name == "metrics.jsonl" else path for path in paths]
    names = [os.path.join(path.parent.name, path.name) if path.is_file() else path.name for path in paths]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath([path.parent for path in paths])) for path in paths]
    return list(zip(files, names))


def is_readable(file, follow):
    """Also a run's folder in which it has not come to its first step."""
    return file.is_file() or (file.parent.is_dir() and (follow or (file.parent / "environment.json").is_file()))


def convert(runs, go_on):
    counts = []
    for run in runs:
        counts.append(run.update() if run.metrics.exists() else 0)
        if counts[-1] or go_on:
            print(f"{run.folder}: {counts[-1]} steps of {run.metrics}", flush=True)
        else:
            print(f"{run.metrics} has no steps yet", file=sys.stderr)
    if go_on:
        print("following; Ctrl-C ends", flush=True)
    elif not any(counts):
        sys.exit("nothing to write; --follow waits for the first step")
    while go_on:
        time.sleep(POLL_SECONDS)
        for run in runs:
            if run.metrics.exists():
                run.update()


def collect_thread_errors(errors):
    """Those of the threads that write events, which otherwise print them besides: a full disk, say."""
    def collect(raised):
        if isinstance(raised.exc_value, OSError):
            errors.append(raised.exc_value)
        else:
            threading.__excepthook__(raised)
    threading.excepthook = collect


def close_all(runs, errors):
    for run in runs:
        try:
            run.close()
        except OSError as error:
            errors.append(error)


def error_text(error, out):
    return str(error) if error.filename else f"cannot write into {out}: {error.strerror or error}; run this again when that is mended"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="run directory or metrics.jsonl")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for tensorboard --logdir")
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    arguments = parser.parse_args()
    files = metrics_files(arguments.runs)
    for file, _ in files:
        if not is_readable(file, arguments.follow):
            sys.exit(f"cannot read {file}; expected a run directory or a metrics.jsonl")
    library = load_library()
    runs = [Run(file, arguments.out / name, library) for file, name in files]
    errors = []
    collect_thread_errors(errors)
    try:
        convert(runs, arguments.follow)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        errors.append(error)
    finally:
        close_all(runs, errors)
    if errors:
        sys.exit(error_text(errors[0], arguments.out))


if __name__ == "__main__":
    main()
