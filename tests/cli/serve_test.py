"""fbi-run serve over loopback: answers are those of `generate`, whoever else asks; bad requests, slow clients and those who
leave disturb nobody; it stops cleanly.  Usage: serve_test.py PATH-OF-FBI-RUN PATH-OF-MAKE_PACKED_MODEL [unittest arguments]"""
import concurrent.futures
import http.client
import json
import math
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/support"), str(REPOSITORY / "tests/python")]
from interpreter import interpreter  # noqa: E402
from processes import wait_until  # noqa: E402

FBI_RUN = MAKE_MODEL = None
WORK = None    # folder with the model
SHARED = None  # a server that most tests use
LIMIT = 600    # seconds after which something hangs; a text of 3,000 tokens takes many under sanitizers on busy processors
FOREVER = {"prompt": "One day, ", "temperature": 0, "max_tokens": 59000}  # takes a minute: is to be given up


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


def bytes_of_token(name):
    """What a token of "logprobs" stands for."""
    if not name.startswith("bytes:"):
        return name.encode()
    return re.sub(r"\\x(..)", lambda found: chr(int(found.group(1), 16)), name.removeprefix("bytes:")).encode("latin-1")


def nested(depth):
    return "[" * depth + "]" * depth


def generate(prompt, *words, model="model"):
    return json.loads(generated(prompt, "--json", *words, model=model))


def generated(prompt, *words, model="model"):
    """What `generate` prints."""
    return subprocess.run([FBI_RUN, "generate", "--model", WORK / model, "--threads", "1", "--prompt", prompt, *map(str, words)],
                          capture_output=True, timeout=LIMIT, check=True).stdout


def setUpModule():
    global WORK, SHARED
    WORK = pathlib.Path(tempfile.mkdtemp(prefix="serve-test-"))
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "make_stories.py", "--out", WORK / "stories.txt", "--bytes", "30000"],
                   check=True, capture_output=True)
    subprocess.run([MAKE_MODEL, WORK / "model", WORK / "stories.txt"], check=True, capture_output=True)
    SHARED = Server("--queue", "200")


def tearDownModule():
    code = SHARED.stop()
    shutil.rmtree(WORK)
    if code != 0:
        raise AssertionError(f"the server ended with {code}: {SHARED.log[-4000:]}")


class Answers(unittest.TestCase):
    def test_a_completion_is_what_generate_gives(self):
        expected = generate("One day, ", "--max-new-tokens", 30, "--seed", 7, "--temperature", 0.9, "--top-k", 50, "--top-p", 0.95,
                            "--min-p", 0.01, "--repetition-penalty", 1.2)
        found = SHARED.complete(prompt="One day, ", max_tokens=30, seed=7, temperature=0.9, top_k=50, top_p=0.95, min_p=0.01,
                                repetition_penalty=1.2, model="any", user="somebody", presence_penalty=0, best_of=None)
        self.assertEqual(found["object"], "text_completion")
        self.assertEqual(found["model"], "model")
        (choice,) = found["choices"]
        self.assertEqual(choice, {"text": expected["text"], "index": 0, "logprobs": None, "finish_reason": "length"})
        usage = found["usage"]
        cached = usage.pop("prompt_tokens_details")["cached_tokens"]  # others have asked for the same
        self.assertIn(cached, range(expected["prompt_tokens"]))
        self.assertEqual(usage, {"prompt_tokens": expected["prompt_tokens"], "completion_tokens": 30,
                                 "total_tokens": expected["prompt_tokens"] + 30})

    def test_streaming_gives_the_same(self):
        fields = dict(prompt=["One day, ", "Lily"], n=2, max_tokens=60, seed=3, temperature=1.5, echo=True)
        whole = SHARED.complete(**fields)
        events = SHARED.stream(**fields, stream_options={"include_usage": True})
        usage = events.pop()["usage"]
        self.assertEqual({**usage, "prompt_tokens_details": None}, {**whole["usage"], "prompt_tokens_details": None})
        texts, reasons = [""] * 4, [None] * 4
        for event in events:
            (choice,) = event["choices"]
            self.assertIsNone(reasons[choice["index"]], "text behind the end")
            texts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"]
        self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])
        self.assertEqual(reasons, [choice["finish_reason"] for choice in whole["choices"]])
        self.assertEqual([choice["index"] for choice in whole["choices"]], [0, 1, 2, 3])
        self.assertTrue(texts[1].startswith("One day, ") and texts[2].startswith("Lily"))

    def test_choices_take_seeds_in_a_row(self):
        three = SHARED.complete(prompt="a", n=3, seed=10, max_tokens=12)
        for index, choice in enumerate(three["choices"]):
            self.assertEqual(choice["text"], SHARED.text(prompt="a", seed=10 + index, max_tokens=12))
        self.assertEqual(len({SHARED.text(prompt="a", max_tokens=12) for _ in range(3)}), 3, "without a seed texts differ")

    def test_prompts_may_be_token_ids(self):
        ids = generate("", "--max-new-tokens", 5, "--temperature", 0)["ids"]
        prompt = [1, *ids]
        text = SHARED.text(prompt=prompt, temperature=0, max_tokens=4)
        self.assertEqual(text, SHARED.text(prompt=[prompt], temperature=0, max_tokens=4))
        usage = SHARED.complete(prompt=prompt, max_tokens=0)["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]), (6, 0, 6))

    def test_stop_strings(self):
        whole = SHARED.text(prompt="One day, ", temperature=0, max_tokens=40)
        stop = whole[10:12]
        for fields in ({"stop": stop}, {"stop": ["never there", stop]}):
            (choice,) = SHARED.complete(prompt="One day, ", temperature=0, max_tokens=40, **fields)["choices"]
            self.assertEqual((choice["text"], choice["finish_reason"]), (whole[:whole.index(stop)], "stop"))
            streamed = "".join(e["choices"][0]["text"] for e in SHARED.stream(prompt="One day, ", temperature=0, max_tokens=40, **fields))
            self.assertEqual(streamed, choice["text"])

    def test_log_probabilities(self):
        fields = dict(prompt="One day, ", temperature=0, max_tokens=20)
        self.assertIsNone(SHARED.complete(**fields)["choices"][0]["logprobs"])
        choice = SHARED.complete(**fields, logprobs=2)["choices"][0]
        found = choice["logprobs"]
        self.assertEqual({key: len(found[key]) for key in found}, dict.fromkeys(["tokens", "token_logprobs", "top_logprobs", "text_offset"], 20))
        for token, own, best in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"]):
            self.assertEqual(list(best.items())[0], (token, own))  # greedy: the most likely one
            self.assertEqual(sorted(best.values(), reverse=True), list(best.values()))
            self.assertLessEqual(sum(map(math.exp, best.values())), 1)
        # The same text as a prompt that is scored has the same scores.
        ids = generate("One day, ", "--max-new-tokens", 20, "--temperature", 0)["ids"]
        prompt = SHARED.complete(**fields, logprobs=0, echo=True)["choices"][0]["logprobs"]
        count = len(prompt["tokens"]) - 20
        self.assertEqual((prompt["tokens"][0], prompt["token_logprobs"][0], prompt["top_logprobs"][0]), ("<s>", None, None))
        self.assertEqual(prompt["token_logprobs"][count:], found["token_logprobs"])
        again = SHARED.complete(prompt=[5, *ids], max_tokens=0, logprobs=5, echo=True)["choices"][0]
        self.assertEqual(len(again["logprobs"]["tokens"]), 21)
        self.assertEqual(again["logprobs"]["tokens"][1:], found["tokens"])
        for token, best in list(zip(again["logprobs"]["tokens"], again["logprobs"]["top_logprobs"]))[1:]:
            self.assertIn(token, best)
            self.assertIn(len(best), (5, 6))  # the token itself besides, where it is not among them

    def test_offsets_are_those_of_the_text(self):
        fields = dict(max_tokens=25, seed=1, temperature=1.5, logprobs=1)
        for prompt in ("One day, ", "", "Ä 🦁\n said"):
            for echo in (False, True):
                choice = SHARED.complete(prompt=prompt, echo=echo, **fields)["choices"][0]
                text, found = choice["text"], choice["logprobs"]
                self.assertEqual(found["text_offset"], sorted(found["text_offset"]))
                for token, offset in zip(found["tokens"], found["text_offset"]):
                    if token == "<s>":
                        self.assertEqual(offset, 0)
                    elif token.startswith("bytes:"):
                        self.assertTrue(bytes_of_token(token)[0] in text[offset:offset + 1].encode() or text[offset] == "\ufffd", (token, offset))
                    elif offset > 0 or not text.startswith(token[1:]):  # the first space of a prompt is not shown
                        self.assertEqual(text[offset:offset + len(token)], token)
        stopped = SHARED.complete(prompt="One day, ", stop=SHARED.text(prompt="One day, ", **fields)[3:5], **fields)["choices"][0]
        self.assertLessEqual(max(stopped["logprobs"]["text_offset"]), len(stopped["text"]))

    def test_log_probabilities_are_those_of_perplexity(self):
        ids = [1, *generate("Lily", "--max-new-tokens", 60, "--seed", 2)["ids"]]
        (WORK / "window.jsonl").write_text(json.dumps(ids) + "\n")
        done = subprocess.run([FBI_RUN, "perplexity", "--model", WORK / "model", "--tokens", WORK / "window.jsonl", "--threads", "1", "--json"],
                              capture_output=True, text=True, timeout=LIMIT, check=True)
        scores = SHARED.complete(prompt=ids, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"][1:]
        self.assertAlmostEqual(-sum(scores) / len(scores), json.loads(done.stdout)["mean_nll"], places=6)

    def test_two_hundred_clients_at_once(self):
        cases = [(prompt, seed) for prompt in ("One day, ", "Lily", "The big red dog was", "") for seed in (1, 2)]
        expected = [generate(prompt, "--seed", seed, "--max-new-tokens", 25)["text"] for prompt, seed in cases]

        def client(number):
            prompt, seed = cases[number % len(cases)]
            fields = dict(prompt=prompt, seed=seed, max_tokens=25)
            if number % 2:
                return SHARED.text(**fields)
            return "".join(event["choices"][0]["text"] for event in SHARED.stream(**fields))

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            found = list(pool.map(client, range(200)))
        for number, text in enumerate(found):
            self.assertEqual(text, expected[number % len(cases)])
        SHARED.wait_for_load(running=0, waiting=0)

    def test_models_and_health(self):
        status, headers, text = SHARED.ask("GET", "/v1/models")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        (model,) = json.loads(text)["data"]
        self.assertEqual((model["id"], model["object"]), ("model", "model"))
        self.assertEqual(SHARED.load()["status"], "ok")
        self.assertEqual(json.loads(SHARED.ask("GET", "/v1/models/model")[2]), model)
        status, _, text = SHARED.ask("GET", "/v1/models/mode")
        self.assertEqual((status, json.loads(text)["error"]["code"]), (404, "model_not_found"))
        for path in ("/health", "/v1/models", "/v1/models/model"):
            self.assertEqual(SHARED.ask("HEAD", path)[::2], (200, b""))

    def test_values_that_others_send(self):
        fields = dict(prompt="One day, ", max_tokens=12, seed=5, temperature=1.5)
        expected = SHARED.text(**fields)
        self.assertEqual(SHARED.text(**{**fields, "max_tokens": 12.0}, n=1.0, top_k=-1, logprobs=False, ignore_eos=False, min_tokens=0,
                                     skip_special_tokens=True, response_format={"type": "text"}, frequency_penalty=0), expected)
        self.assertEqual(SHARED.text(**fields, top_p=0), SHARED.text(**{**fields, "temperature": 0}))
        self.assertEqual(SHARED.text(prompt="a", max_tokens=2**63 - 1, stop=expected[:1], seed=1), SHARED.text(prompt="a", max_tokens=1e18,
                                                                                                               stop=expected[:1], seed=1))
        penalized = SHARED.text(prompt="One day, ", max_tokens=40, temperature=0, frequency_penalty=2, presence_penalty=2)
        self.assertNotEqual(penalized, SHARED.text(prompt="One day, ", max_tokens=40, temperature=0))

    def test_a_client_of_http_1_0(self):
        body = json.dumps({"prompt": "a", "max_tokens": 3, "temperature": 0}).encode()
        with socket.create_connection(("127.0.0.1", SHARED.port), LIMIT) as client:
            client.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        head, _, text = answer.partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        self.assertEqual(json.loads(text)["choices"][0]["text"], SHARED.text(prompt="a", max_tokens=3, temperature=0))


class Prefixes(unittest.TestCase):
    """Prompts that begin like another text are read from there on."""

    BEGIN = "One day, Lily and Tom went to the park. They saw a big red ball near the old tree, and Tom said: "

    def test_what_was_read_is_not_read_again(self):
        fields = dict(temperature=0, max_tokens=20)
        with Server() as server, Server("--prefix-cache-mb", "0") as fresh:
            def ask(prompt, **more):
                """(choice, tokens of the prompt, those that were known)"""
                answer, expected = server.complete(prompt=prompt, **fields, **more), fresh.complete(prompt=prompt, **fields, **more)
                self.assertEqual(answer["choices"], expected["choices"])
                self.assertEqual(expected["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
                usage = answer["usage"]
                return answer["choices"][0], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
            choice, tokens, known = ask(self.BEGIN)
            self.assertEqual(known, 0)
            self.assertEqual(ask(self.BEGIN)[1:], (tokens, tokens - 1))
            _, more, known = ask(self.BEGIN + choice["text"] + " And then")
            self.assertIn(known, range(tokens - 2, more))
            self.assertEqual(ask("Lily. " + self.BEGIN)[2], 0)
            # As evaluation harnesses ask: one question, several answers, likelihoods of all tokens.
            known = [ask(self.BEGIN + end, echo=True, logprobs=1)[2] for end in ("Hello.", "Go away.", "Look.")]
            self.assertEqual(known[0], 0, "without likelihoods it does not serve")
            self.assertTrue(all(tokens - 4 <= count < tokens + 2 for count in known[1:]), (known, tokens))
            server.wait_for_log(f" ({known[2]} known) + ")

    def test_of_one_request(self):
        with Server("--prefix-cache-mb", "0") as server:
            usage = server.complete(prompt=[self.BEGIN + "a", self.BEGIN + "b"], n=2, max_tokens=3)["usage"]
            self.assertIn(usage["prompt_tokens_details"]["cached_tokens"],
                          range(usage["prompt_tokens"] // 2 - 3, usage["prompt_tokens"] // 2))


class ByteLevel(unittest.TestCase):
    """A model with a tokenizer.json, whose pieces may be parts of a character."""

    def test_generate_and_stream(self):
        subprocess.run([MAKE_MODEL, WORK / "byte-level", REPOSITORY / "tests/text/byte_bpe/llama3/tokenizer.json"], check=True, capture_output=True)
        prompt, words = "Ein Löwe 🦁 sagt: ", ("--max-new-tokens", 60, "--seed", 4, "--temperature", 1.5)
        expected = generate(prompt, *words, model="byte-level")
        self.assertEqual(generated(prompt, *words, model="byte-level").decode(), prompt + expected["text"] + "\n")
        with Server(model="byte-level") as server:
            fields = dict(prompt=prompt, max_tokens=60, seed=4, temperature=1.5)
            self.assertEqual(server.text(**fields), expected["text"])
            self.assertEqual("".join(event["choices"][0]["text"] for event in server.stream(**fields)), expected["text"])
            self.assertTrue(server.text(**fields, echo=True).startswith(prompt))
            found = server.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]
            names = found["tokens"][1:]
            self.assertEqual(b"".join(map(bytes_of_token, names)), prompt.encode())
            self.assertTrue(any(re.search(r"^bytes:.*\\xf0", name) for name in names), names)
            for name, offset in zip(names, found["text_offset"][1:]):
                self.assertTrue(name.startswith("bytes:") or prompt[offset:].startswith(name), (name, offset))
            self.assertEqual(server.stop(), 0)


class BadRequests(unittest.TestCase):
    def refuse(self, body, *parts, status=400, field=None, code=None, **options):
        found, _, text = SHARED.ask("POST", "/v1/completions", body, **options)
        self.assertEqual(found, status, text)
        error = json.loads(text)["error"]
        for part in parts:
            self.assertIn(part, error["message"])
        self.assertEqual((error["param"], error["code"]), (field, code))
        self.assertEqual(error["type"], "invalid_request_error")

    def test_bodies_that_are_no_request(self):
        for body in ("", "{", "nonsense", b"\xff\xfe\x00", '{"prompt": "\xff"}'.encode("latin-1"), "[" * 8, '{"prompt": "a"} x'):
            self.refuse(body, "not valid JSON")
        for body in ("[]", "3", '"prompt"', "null"):
            self.refuse(body, "expected a JSON object")

    def test_bodies_that_are_nested_deeply(self):
        for field in ("prompt", "stop", "metadata"):
            for depth in (8, 150000):
                self.refuse(f'{{"{field}": {nested(depth)}}}', "deeper than 8 levels")
        self.refuse("[" * 100000, "deeper than 8 levels")
        self.refuse('{"a":' * 100000, "deeper than 8 levels")
        self.refuse(f'{{"prompt": {nested(7)}}}', "prompt", field="prompt")
        self.assertEqual(SHARED.ask("POST", "/v1/completions", f'{{"prompt": "a", "max_tokens": 1, "metadata": {nested(7)}}}')[0], 200)

    def test_fields(self):
        for name, values in {"max_tokens": ["5", 1.5, -1, True], "temperature": ["hot", -1], "top_p": [-0.1, 1.1, []], "top_k": [-2, 0.5],
                             "min_p": [2], "repetition_penalty": [0, 1e-308, 101], "seed": ["x", 0.5], "n": [0, 1.5, 100000, 1e300, "1"], "stream": [1, "yes"],
                             "echo": [0], "stop": [3, [3], "", ["a", ""], ["x"] * 17, {}], "stream_options": [{"include_usage": True}, 3],
                             "prompt": [3, {}, [], [[]], [True], ["a", 3], [1, "a"], [-1], [320], [2**40], [1.5]],
                             "logprobs": [6, -1, True], "suffix": ["x"], "best_of": [7], "logit_bias": [{"5": 1}], "presence_penalty": [2.1, "0"],
                             "frequency_penalty": [-3], "ignore_eos": [True], "min_tokens": [1], "response_format": [{"type": "json_object"}], "guided_regex": ["a*"]}.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refuse({"prompt": "a", name: value}, name, field=name)
        self.refuse({"prompt": "a", "logprobs": 1, "stream": True}, "logprobs", field="logprobs")
        self.refuse({}, "prompt", "missing", field="prompt")
        self.refuse({"prompt": "a", "stream": True, "stream_options": {"x": 1}}, "unknown", field="stream_options.x")
        self.refuse({"prompt": ["a"] * 300}, "300 prompts", field="prompt")
        self.refuse({"prompt": ["a"] * 100, "n": 100}, "100 prompts with 100 texts each", field="prompt")

    def test_too_long(self):
        self.refuse({"prompt": [5] * 60000}, "60000 tokens", "context of 60000", field="prompt", code="context_length_exceeded")
        large = b'{"prompt": "' + b"a" * (1 << 20) + b'"}'
        self.refuse(large, "1048576", status=413)
        pieces = (large[at:at + 9999] for at in range(0, len(large), 9999))
        self.refuse(pieces, "1048576", status=413, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        small = (piece for piece in (b'{"prompt": "a", ', b'"max_tokens": 1}'))
        self.assertEqual(SHARED.ask("POST", "/v1/completions", small, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})[0], 200)

    def test_paths_and_methods(self):
        for method, path, status in (("GET", "/", 404), ("POST", "/v1/chat/completions", 404), ("PUT", "/v1/completions", 405),
                                     ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405), ("GET", "/" + "x" * 9000, 414)):
            found, _, text = SHARED.ask(method, path, "{}" if method == "POST" else None)
            self.assertEqual(found, status)
            self.assertIn("error", json.loads(text))
        self.assertIn("base models", json.loads(SHARED.ask("POST", "/v1/chat/completions", "{}")[2])["error"]["message"])
        self.assertEqual(SHARED.ask("GET", "/a%0Aforged%20line")[0], 404)
        SHARED.wait_for_log("GET /a?forged line 404")
        self.assertEqual(SHARED.ask("GET", "/health", headers={"X": "y" * 20000})[0], 400)
        # Ranges are left out of account.
        for path, ranges, status in (("/health", "bytes=0-1", 200), ("/nowhere", "bytes=0-1", 404), ("/health", "bytes=0-1,x", 416)):
            found, headers, text = SHARED.ask("GET", path, headers={"Range": ranges})
            self.assertEqual((found, headers["Content-Range"]), (status, None))
            json.loads(text)
        self.assertEqual(SHARED.ask("POST", "/v1/completions", "x", headers={"Content-Type": "multipart/form-data; boundary=x"})[0], 415)

    def test_what_is_no_http(self):
        generator = random.Random(5)
        post = b"POST /v1/completions HTTP/1.1\r\n"
        for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", generator.randbytes(3000), post,
                     post + b"\r\n", post + b"Content-Length: 100\r\n\r\n{}", post + b"Content-Length: -1\r\n\r\n{}",
                     post + b"Content-Length: many\r\n\r\n{}", post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
                     post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{", post + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"):
            with socket.create_connection(("127.0.0.1", SHARED.port), LIMIT) as client:
                try:
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    answer = b"".join(iter(lambda: client.recv(4096), b""))
                except ConnectionError:
                    answer = b""
            self.assertRegex(answer, rb"^(HTTP/1\.1 4\d\d |$)")
        self.assertEqual(SHARED.load()["status"], "ok")


class Clients(unittest.TestCase):
    def test_one_that_leaves_in_mid_stream(self):
        connection, answer = SHARED.begin(**FOREVER)
        SHARED.wait_for_load(running=1)
        answer.close()
        connection.close()
        SHARED.wait_for_load(running=0)
        SHARED.wait_for_log("cancelled, the client is gone")

    def test_one_that_leaves_while_it_waits(self):
        connection = SHARED.connect()
        connection.request("POST", "/v1/completions", json.dumps({**FOREVER, "n": 2}))
        SHARED.wait_for_load(running=2)
        connection.close()
        SHARED.wait_for_load(running=0)

    def test_one_that_leaves_before_its_first_token(self):
        with Server("--max-batch", 1) as server:
            first = server.begin(**FOREVER)
            for stream in (False, True):
                waiting = server.connect()
                waiting.request("POST", "/v1/completions", json.dumps({**FOREVER, "stream": stream}))
                server.wait_for_load(running=1, waiting=1)
                waiting.close()
                server.wait_for_load(running=1, waiting=0)
            self.assertNotIn(": done", server.log)
            first[1].close()
            first[0].close()

    def test_slow_ones_hold_up_nobody(self):
        expected = generate("Lily", "--max-new-tokens", 40, "--seed", 1)["text"]
        slow = []
        for _ in range(5):
            client = SHARED.connect()
            client.sock = socket.socket()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sock.settimeout(LIMIT)
            client.sock.connect(("127.0.0.1", SHARED.port))
            client.request("POST", "/v1/completions", json.dumps({**FOREVER, "stream": True, "max_tokens": 1500}))
            slow.append(client)
        half = socket.create_connection(("127.0.0.1", SHARED.port), LIMIT)
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-")  # and never the rest
        for _ in range(10):
            self.assertEqual(SHARED.text(prompt="Lily", max_tokens=40, seed=1), expected)
        SHARED.wait_for_load(running=0)  # the engine has ended what nobody has read
        texts = set()
        for client in slow:
            texts.add("".join(event["choices"][0]["text"] for event in events_of(client.getresponse().read())))
            client.close()
        half.close()
        self.assertEqual(len(texts), 1)
        self.assertGreater(len(texts.pop()), 1000)

    def test_more_than_the_queue_holds(self):
        with Server("--max-batch", 1, "--queue", 1) as server:
            first = server.begin(**FOREVER)
            second = server.connect()
            second.request("POST", "/v1/completions", json.dumps(FOREVER))
            server.wait_for_load(running=1, waiting=1)
            status, headers, text = server.ask("POST", "/v1/completions", {"prompt": "a"})
            self.assertEqual((status, headers["Retry-After"]), (503, "1"))
            self.assertIn("at most 1 and 1", json.loads(text)["error"]["message"])
            first[1].close()
            first[0].close()
            second.close()
            server.wait_for_load(running=0, waiting=0)
            self.assertEqual(len(server.complete(prompt="a", max_tokens=3)["choices"]), 1)


def requests_of(metrics):
    """{(endpoint, status): count}, but of those by which the tests look at the server."""
    found = (re.fullmatch(r'fbi_http_requests_total\{endpoint="([^"]+)",status="(\d+)"\}', name) for name in metrics)
    return {(name[1], int(name[2])): metrics[name[0]] for name in found if name and name[1] not in ("/health", "/metrics")}


def completions_of(metrics):
    """How many were sent whole, were given up, went wrong."""
    return tuple(metrics[f'fbi_completions_total{{outcome="{outcome}"}}'] for outcome in ("done", "cancelled", "failed"))


def buckets_of(metrics, name):
    """{upper bound: count}, as they are told."""
    found = (re.fullmatch(name + r'_bucket\{le="([^"]+)"\}', sample) for sample in metrics)
    return {float(bucket[1]): metrics[bucket[0]] for bucket in found if bucket}


class Metrics(unittest.TestCase):
    HISTOGRAMS = ("fbi_time_to_first_token_seconds", "fbi_time_per_token_seconds", "fbi_completion_seconds")

    def histograms(self, metrics):
        """The number of values in each; that the buckets are what they should be."""
        for name in self.HISTOGRAMS:
            buckets = buckets_of(metrics, name)
            self.assertEqual(list(buckets), sorted(buckets))
            self.assertEqual(list(buckets.values()), sorted(buckets.values()))
            self.assertEqual(buckets[math.inf], metrics[name + "_count"])
            # All values could lie at the upper ends of their buckets, or at the lower ones.
            counts = [after - before for before, after in zip([0, *buckets.values()], buckets.values())]
            self.assertLessEqual(metrics[name + "_sum"], sum(bound * count for bound, count in zip(buckets, counts) if count))
            self.assertGreaterEqual(metrics[name + "_sum"], sum(bound * count for bound, count in zip([0, *buckets], counts)))
        return tuple(metrics[name + "_count"] for name in self.HISTOGRAMS)

    def test_answers_and_their_tokens(self):
        with Server() as server:
            start = server.metrics()
            self.assertEqual((requests_of(start), completions_of(start), self.histograms(start)), ({}, (0, 0, 0), (0, 0, 0)))
            self.assertEqual((start["fbi_prompt_tokens_total"], start["fbi_generated_tokens_total"]), (0, 0))
            usages = [server.complete(prompt=["One day, ", "Lily"], n=2, max_tokens=7, temperature=0)["usage"],
                      server.stream(prompt="a", max_tokens=1, temperature=0, stream_options={"include_usage": True})[-1]["usage"],
                      server.complete(prompt="Lily", max_tokens=0)["usage"]]
            self.assertEqual([usage["completion_tokens"] for usage in usages], [28, 1, 0])
            found = server.metrics()
            self.assertEqual(found["fbi_prompt_tokens_total"], sum(usage["prompt_tokens"] for usage in usages))
            self.assertEqual(found["fbi_prompt_tokens_cached_total"],
                             sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages))
            self.assertEqual(found["fbi_generated_tokens_total"], 29)
            self.assertEqual((requests_of(found), completions_of(found)), ({("/v1/completions", 200): 3}, (3, 0, 0)))
            self.assertEqual(self.histograms(found), (5, 4, 3), "texts with a first token, with more than one, answers")

    def test_requests_that_are_refused(self):
        with Server("--max-body-bytes", "100") as server:
            for method, path, body in (("POST", "/v1/completions", "{"), ("POST", "/v1/completions", {"prompt": 3}), ("POST", "/v1/completions", "x" * 101),
                                       ("GET", "/v1/completions", None), ("GET", "/v1/models", None), ("HEAD", "/v1/models/model", None),
                                       ("GET", "/v1/models/other", None), ("GET", "/somewhere", None), ("GET", '/"\n{}', None), ("GET", "/" + "x" * 9000, None)):
                server.ask(method, path.replace("\n", "%0A"), body)
            found = server.metrics()
            self.assertEqual(requests_of(found), {("/v1/completions", 400): 2, ("/v1/completions", 413): 1, ("/v1/completions", 405): 1, ("/v1/models", 200): 2,
                                                  ("/v1/models", 404): 1, ("other", 404): 2, ("other", 414): 1})
            self.assertEqual((completions_of(found), self.histograms(found)), ((0, 0, 0), (0, 0, 0)))
            own = 'fbi_http_requests_total{endpoint="/metrics",status="200"}'
            self.assertEqual(server.metrics()[own], found.get(own, 0) + 1)

    def test_clients_that_leave(self):
        with Server("--max-batch", 1, "--queue", 1) as server:
            connection, answer = server.begin(**FOREVER)
            waiting = server.connect()
            waiting.request("POST", "/v1/completions", json.dumps(FOREVER))
            server.wait_for_load(running=1, waiting=1)
            self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": "a"})[0], 503)
            found = server.metrics()
            self.assertEqual((found["fbi_texts_running"], found["fbi_texts_waiting"]), (1, 1))
            for one in (answer, connection, waiting):
                one.close()
            wait_until(lambda: completions_of(server.metrics()) == (0, 2, 0), "two are given up", LIMIT)
            found = server.metrics()
            self.assertEqual(requests_of(found), {("/v1/completions", 200): 2, ("/v1/completions", 503): 1})
            self.assertEqual((found["fbi_generated_tokens_total"], self.histograms(found)), (0, (0, 0, 0)))
            server.wait_for_load(running=0, waiting=0)
            found = server.metrics()
            self.assertEqual((found["fbi_texts_running"], found["fbi_texts_waiting"]), (0, 0))

    def test_a_model_that_fails(self):
        broken = 300  # a token whose embedding is no number, and which is never drawn
        shutil.copytree(WORK / "model", WORK / "broken", ignore=shutil.ignore_patterns("checksums.json"))
        (file,) = (WORK / "broken").glob("*.safetensors")
        with open(file, "r+b") as weights:
            (size,) = struct.unpack("<Q", weights.read(8))
            tensors = json.loads(weights.read(size))
            for name, value in (("model.embed_tokens.weight", math.nan), ("lm_head.weight", 0)):
                self.assertEqual(tensors[name]["dtype"], "F32")
                width = tensors[name]["shape"][1]
                weights.seek(8 + size + tensors[name]["data_offsets"][0] + 4 * broken * width)
                weights.write(struct.pack(f"<{width}f", *[value] * width))
        with Server("--max-batch", 1, model="broken") as server:
            status, _, text = server.ask("POST", "/v1/completions", {"prompt": [broken]})
            self.assertEqual((status, json.loads(text)["error"]["type"]), (500, "server_error"))
            _, _, text = server.ask("POST", "/v1/completions", {"prompt": [[5], [broken]], "max_tokens": 2000, "temperature": 0, "stream": True})
            self.assertRegex(text, rb'data: {"error":{"message":"[^\n]*\n\n$')
            found = server.metrics()
            self.assertEqual(requests_of(found), {("/v1/completions", 500): 1, ("/v1/completions", 200): 1})
            self.assertEqual((completions_of(found), self.histograms(found)), ((0, 0, 1), (1, 1, 0)))
            self.assertEqual((found["fbi_prompt_tokens_total"], found["fbi_generated_tokens_total"]), (2, 2000))

    def test_prometheus_reads_them(self):
        program = """if True:
            import json, sys
            from prometheus_client.parser import text_string_to_metric_families
            families = text_string_to_metric_families(sys.stdin.read())
            print(json.dumps([[family.type, family.documentation, family.samples] for family in families]))"""
        if not interpreter().exists() or subprocess.run([interpreter(), "-c", "import prometheus_client"], capture_output=True).returncode:
            self.skipTest("there is no prometheus_client; scripts/deps.sh --python-tests brings it")
        SHARED.complete(prompt="a", max_tokens=3)
        text = SHARED.ask("GET", "/metrics")[2].decode()
        done = subprocess.run([interpreter(), "-c", program], input=text, capture_output=True, text=True, timeout=LIMIT, check=True)
        families = json.loads(done.stdout)
        self.assertEqual([kind for kind, _, _ in families], ["gauge", *["counter"] * 5, *["gauge"] * 2, *["histogram"] * 3])
        self.assertTrue(all(documentation.endswith(".") for _, documentation, _ in families))
        found = {}
        for name, labels, value, *_ in (sample for _, _, samples in families for sample in samples):
            inner = ",".join(f'{label}="{word}"' for label, word in labels.items())
            found[name + (f"{{{inner}}}" if inner else "")] = value
        self.assertEqual(found, samples_of(text))


class Keys(unittest.TestCase):
    def key_file(self, content):
        file = WORK / "keys"
        file.write_bytes(content)
        return file

    def test_requests_need_one(self):
        file = self.key_file(b"# of the tests\n\n  first-key\t\r\n  # third\nsecond.key~+/=")
        with Server("--api-key-file", file) as server:
            server.wait_for_log("known keys: 2\n")
            wrong = [None, "", "Bearer", "Bearer ", "first-key", "Basic first-key", "Bearer first-ke", "Bearer first-key1", "Bearer first-keyfirst-key",
                     "Bearer FIRST-KEY", "Bearer first-key second.key~+/=", "Bearer # third", "Bearer third", "Bearerfirst-key"]
            for value in wrong:
                headers = {} if value is None else {"Authorization": value}
                for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/model"), ("GET", "/v1/nothing"), ("GET", "/%761/models")):
                    with self.subTest(value=value, path=path):
                        status, found, text = server.ask(method, path, {"prompt": "a"} if method == "POST" else None, headers=headers)
                        self.assertEqual((status, found["WWW-Authenticate"]), (401, "Bearer"))
                        error = json.loads(text)["error"]
                        self.assertEqual((error["type"], error["param"], error["code"]), ("invalid_request_error", None, "invalid_api_key"))
            self.assertEqual(server.metrics()['fbi_http_requests_total{endpoint="/v1/completions",status="401"}'], len(wrong))
            for value in ("Bearer first-key", "bearer  second.key~+/="):
                headers = {"Authorization": value}
                self.assertEqual(server.ask("GET", "/v1/models", headers=headers)[0], 200)
                self.assertEqual(server.ask("GET", "/v1/nothing", headers=headers)[0], 404)
                fields = {"prompt": "a", "max_tokens": 3, "temperature": 0}
                text = server.ask("POST", "/v1/completions", fields, headers=headers)[2]
                self.assertEqual(json.loads(text)["choices"][0]["text"], SHARED.text(**fields))
                self.assertTrue(events_of(server.ask("POST", "/v1/completions", {**fields, "stream": True}, headers=headers)[2]))
            for path, status in (("/health", 200), ("/metrics", 200), ("/nowhere", 404)):
                self.assertEqual(server.ask("GET", path)[0], status)
        for part in ("first-k", "FIRST-KEY", "second.k"):
            self.assertNotIn(part, server.log)

    def test_a_body_is_not_read_without_one(self):
        with Server("--api-key-file", self.key_file(b"first-key\n")) as server:
            head = b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n"
            for more in (b"", b"Expect: 100-continue\r\n"):
                with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
                    client.sendall(head + more + b"\r\n")  # and no body
                    self.assertRegex(b"".join(iter(lambda: client.recv(4096), b"")), rb"(?s)^HTTP/1\.1 401 .*invalid_api_key")
            body = json.dumps({"prompt": "a", "max_tokens": 1}).encode().ljust(1000)
            with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
                client.sendall(head + b"Expect: 100-continue\r\nAuthorization: Bearer first-key\r\n\r\n")
                self.assertEqual(client.recv(4096), b"HTTP/1.1 100 Continue\r\n\r\n")
                client.sendall(body)
                self.assertRegex(b"".join(iter(lambda: client.recv(4096), b"")), rb"^HTTP/1\.1 200 ")

    def test_files_without_keys(self):
        for content, part in ((b"", "holds no key"), (b"\n \t\r\n# first-key\n", "holds no key"), (b"good\nfirst-key second\n", "keys line 2: expected"),
                              ("# good\n\nfirst-k\u00e9y".encode(), "keys line 3: expected"), (b"first-key\0", "keys line 1: expected")):
            self.refuse(self.key_file(content), part)
        self.refuse(WORK / "no-such-file", "no-such-file")
        self.refuse(WORK, str(WORK))

    def refuse(self, file, part):
        done = subprocess.run([FBI_RUN, "serve", "--model", WORK / "model", "--port", "0", "--api-key-file", file], capture_output=True, text=True,
                              timeout=LIMIT)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--api-key-file: ", done.stderr)
        self.assertIn(part, done.stderr)
        self.assertNotIn("first-k", done.stderr)


class Stopping(unittest.TestCase):
    def test_texts_that_are_being_written_end(self):
        server = Server("--stop-seconds", LIMIT)
        connection, answer = server.begin(**{**FOREVER, "max_tokens": 3000})
        server.process.send_signal(signal.SIGTERM)
        self.assertTrue(answer.read().endswith(b"data: [DONE]\n\n"))
        connection.close()
        self.assertEqual(server.wait(), 0)
        self.assertRegex(server.log, r"stopping: [01] texts are being written")
        self.assertIn(": done\n", server.log)
        self.assertTrue(server.log.endswith("stopped\n"), server.log)

    def test_no_more_are_taken(self):
        server = Server("--stop-seconds", LIMIT)
        connection, answer = server.begin(**FOREVER)
        server.process.send_signal(signal.SIGINT)
        server.wait_for_load(status="stopping")
        status, _, text = server.ask("POST", "/v1/completions", {"prompt": "a"})
        self.assertEqual(status, 503)
        self.assertIn("being stopped", json.loads(text)["error"]["message"])
        answer.close()
        connection.close()  # nobody is left to wait for
        self.assertEqual(server.wait(), 0)

    def test_what_takes_too_long_is_cut_off(self):
        server = Server("--stop-seconds", 1)
        connection, answer = server.begin(**FOREVER)
        whole = server.connect()
        whole.request("POST", "/v1/completions", json.dumps(FOREVER))
        server.wait_for_load(running=2)
        server.process.send_signal(signal.SIGINT)
        self.assertRegex(answer.read(), rb'data: {"error":{"message":"[^"]*being stopped[^\n]*\n\n$')
        with self.assertRaises((http.client.HTTPException, ConnectionError)):
            whole.getresponse().read()
        connection.close()
        whole.close()
        self.assertEqual(server.wait(), 0)

    def drip(self, server, head):
        """Sends `head`, then byte after byte. Returns when some are sent, with what waits for the end of it."""
        begun = threading.Event()

        def send():
            with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
                try:
                    client.sendall(head)
                    for number in range(10**6):
                        client.sendall(b"x")
                        time.sleep(0.01)
                        if number == 50:
                            begun.set()
                except ConnectionError:
                    pass

        thread = threading.Thread(target=send)
        thread.start()
        self.assertTrue(begun.wait(LIMIT))
        return thread.join

    def test_a_body_that_comes_byte_by_byte(self):
        server = Server("--stop-seconds", 0)
        end = self.drip(server, b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        self.assertEqual(server.stop(), 0)
        self.assertIn("POST /v1/completions 408", server.log)
        end()

    def test_a_header_that_comes_byte_by_byte(self):
        server = Server("--stop-seconds", 0)
        end = self.drip(server, b"GET /health HTTP/1.1\r\nX: ")
        self.assertEqual(server.stop(), 0)
        self.assertIn("connections that do not end are cut", server.log)
        end()

    def test_an_address_of_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            self.skipTest(f"no IPv6: {error}")
        process = subprocess.Popen([FBI_RUN, "serve", "--model", WORK / "model", "--port", "0", "--host", "::1"], stderr=subprocess.PIPE, text=True)
        with process:
            for line in process.stderr:
                if "listening on" in line:
                    self.assertRegex(line, r"http://\[::1\]:\d+\n")
                    process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(LIMIT), 0)

    def test_a_port_that_is_taken(self):
        done = subprocess.run([FBI_RUN, "serve", "--model", WORK / "model", "--port", str(SHARED.port)], capture_output=True, text=True,
                              timeout=LIMIT)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"port {SHARED.port}", done.stderr)
        self.assertIn("--port", done.stderr)

    def test_options(self):
        for words, part in ((("--port", "70000"), "0 to 65535"), (("--max-batch", "0"), "1 to 256"), (("--queue", "-1"), "--queue: expected 0 to 700"),
                            (("--host", "no.such.host.invalid"), "no.such.host.invalid"), (("--model", "nowhere"), "once is enough")):
            done = subprocess.run([FBI_RUN, "serve", "--model", WORK / "model", *words], capture_output=True, text=True, timeout=LIMIT)
            self.assertEqual(done.returncode, 2)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    FBI_RUN, MAKE_MODEL = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
