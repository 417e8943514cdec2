"""A server of a small packed model, for tests: `prepare` makes the model, `Server` starts fbi-run serve with it."""
import http.client
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from processes import wait_until

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FBI_RUN = MAKE_MODEL = None
WORK = None  # folder with the model
LIMIT = 600  # seconds after which something hangs; a text of 3,000 tokens takes many under sanitizers on busy processors
FOREVER = {"prompt": "One day, ", "temperature": 0, "max_tokens": 59000}  # takes a minute: is to be given up


def take_programs(words):
    """The first two words are paths of fbi-run and make_packed_model; returns the others."""
    global FBI_RUN, MAKE_MODEL
    FBI_RUN, MAKE_MODEL, *others = words
    return others


def prepare():
    global WORK
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="serve-test-"))
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "make_stories.py", "--out", WORK / "stories.txt", "--bytes", "30000"],
                   check=True, capture_output=True)
    subprocess.run([MAKE_MODEL, WORK / "model", WORK / "stories.txt"], check=True, capture_output=True)


def stop(server):
    """The end of a server that tests shared, and of the model."""
    code = server.stop()
    shutil.rmtree(WORK)
    if code != 0:
        raise AssertionError(f"the server ended with {code}: {server.log[-4000:]}")


class Server:
    """fbi-run serve on a free port; `log` is what it has printed."""

    def __init__(self, *words, model="model"):
        self.process = subprocess.Popen([FBI_RUN, "serve", "--model", WORK / model, "--port", "0", "--threads", "1", *map(str, words)],
                                        stderr=subprocess.PIPE, text=True)
        self.log, self.port, self.ready = "", None, threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        if not self.ready.wait(LIMIT) or self.port is None:
            raise AssertionError(f"the server did not start: {self.log}")

    def _read(self):
        for line in self.process.stderr:
            self.log += line
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.ready.set()
        self.ready.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        code = self.process.wait(LIMIT)
        self.reader.join()
        self.process.stderr.close()
        return code

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def ask(self, method, path, body=None, **options):
        """(status, headers, body) of one request; a body that is no str or bytes is sent as JSON."""
        connection = self.connect()
        if body is not None and not isinstance(body, (str, bytes)) and not options.get("encode_chunked"):
            body = json.dumps(body)
        connection.request(method, path, body, **options)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, text

    def complete(self, **fields):
        status, _, text = self.ask("POST", "/v1/completions", fields)
        if status != 200:
            raise AssertionError(f"status {status}: {text}")
        return json.loads(text)

    def text(self, **fields):
        return self.complete(**fields)["choices"][0]["text"]

    def begin(self, **fields):
        """A stream whose first event has been read: (connection, lines)."""
        connection = self.connect()
        connection.request("POST", "/v1/completions", json.dumps({**fields, "stream": True}))
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"status {answer.status}")
        while not answer.readline().startswith(b"data: "):  # but a comment
            pass
        return connection, answer

    def stream(self, **fields):
        """All events of a stream, the last of which is [DONE]."""
        status, headers, body = self.ask("POST", "/v1/completions", {**fields, "stream": True})
        if status != 200 or headers["Content-Type"] != "text/event-stream":
            raise AssertionError(f"status {status}: {body}")
        return events_of(body)

    def load(self):
        return json.loads(self.ask("GET", "/health")[2])

    def metrics(self):
        """Value by name and labels."""
        status, headers, text = self.ask("GET", "/metrics")
        if (status, headers["Content-Type"]) != (200, "text/plain; version=0.0.4; charset=utf-8"):
            raise AssertionError(f"status {status}: {text}")
        return samples_of(text.decode())

    def wait_for_load(self, **expected):
        wait_until(lambda: expected.items() <= self.load().items(), f"load {expected}", LIMIT)

    def wait_for_log(self, text):
        wait_until(lambda: text in self.log, f"'{text}' in the log", LIMIT)


def events_of(body):
    """All events of a stream, the last of which is [DONE]; without comments."""
    parts = [part for part in body.decode().split("\n\n") if not part.startswith(": ")]
    if parts.pop() != "" or parts.pop() != "data: [DONE]":
        raise AssertionError(f"not ended: {body[-200:]}")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def samples_of(text):
    """{name and labels: value} of what is told to Prometheus."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def generate(prompt, *words, model="model"):
    return json.loads(generated(prompt, "--json", *words, model=model))


def generated(prompt, *words, model="model"):
    """What `generate` prints."""
    return subprocess.run([FBI_RUN, "generate", "--model", WORK / model, "--threads", "1", "--prompt", prompt, *map(str, words)],
                          capture_output=True, timeout=LIMIT, check=True).stdout
