"""fbi-run serve over loopback: answers are those of `generate`, whoever else asks; bad requests, slow clients and those who
leave disturb nobody.  Usage: requests_test.py PATH-OF-FBI-RUN PATH-OF-MAKE_PACKED_MODEL [unittest arguments]"""
import concurrent.futures
import json
import math
import pathlib
import random
import re
import socket
import subprocess
import sys
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/support"), str(REPOSITORY / "tests/python")]
import model_server  # noqa: E402
from model_server import FOREVER, LIMIT, Server, events_of, generate, generated  # noqa: E402


def bytes_of_token(name):
    """What a token of "logprobs" stands for."""
    if not name.startswith("bytes:"):
        return name.encode()
    return re.sub(r"\\x(..)", lambda found: chr(int(found.group(1), 16)), name.removeprefix("bytes:")).encode("latin-1")


def nested(depth):
    return "[" * depth + "]" * depth


SHARED = None  # a server that most tests use


def setUpModule():
    global SHARED
    model_server.prepare()
    SHARED = Server("--queue", "200")


def tearDownModule():
    model_server.stop(SHARED)


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
        alike = SHARED.complete(prompt=["a"] * 3, n=2, max_tokens=12)
        self.assertEqual(len({choice["text"] for choice in alike["choices"]}), 6, "those of one request, too")

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

    def test_a_line_end_has_its_own_name(self):
        """The vocabulary has it as a byte alone; of a byte that it has as a character, too, the name tells it apart."""
        found = SHARED.complete(prompt="a\nb", max_tokens=0, echo=True, logprobs=1)["choices"][0]["logprobs"]
        self.assertEqual(found["tokens"], ["<s>", " a", "\n", "b"])

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
        (model_server.WORK / "window.jsonl").write_text(json.dumps(ids) + "\n")
        done = subprocess.run([model_server.FBI_RUN, "perplexity", "--model", model_server.WORK / "model", "--tokens", model_server.WORK / "window.jsonl", "--threads", "1", "--json"],
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
                                     skip_special_tokens=True, response_format={"type": "text"}, frequency_penalty=0, use_beam_search=False,
                                     length_penalty=1.0, typical_p=1.0, stop_token_ids=[], include_stop_str_in_output=False, add_special_tokens=True,
                                     spaces_between_special_tokens=True, cache_prompt=True), expected)
        self.assertEqual("".join(event["choices"][0]["text"] for event in SHARED.stream(
            **fields, stream_options={"include_usage": False, "continuous_usage_stats": False})), expected)
        self.assertEqual(SHARED.text(**fields, top_p=0), SHARED.text(**{**fields, "temperature": 0}))
        self.assertEqual(SHARED.text(prompt="a", max_tokens=2**63 - 1, stop=expected[:1], seed=1), SHARED.text(prompt="a", max_tokens=1e18,
                                                                                                               stop=expected[:1], seed=1))
        penalized = SHARED.text(prompt="One day, ", max_tokens=40, temperature=0, frequency_penalty=2, presence_penalty=2)
        self.assertNotEqual(penalized, SHARED.text(prompt="One day, ", max_tokens=40, temperature=0))

    def test_the_end_that_the_model_sets_can_be_ignored(self):
        fields = dict(prompt="a", max_tokens=80, temperature=3)
        ended = next(seed for seed in range(300) if SHARED.complete(**fields, seed=seed)["choices"][0]["finish_reason"] == "stop")
        found = SHARED.complete(**fields, seed=ended, ignore_eos=True)
        self.assertEqual((found["usage"]["completion_tokens"], found["choices"][0]["finish_reason"]), (80, "length"))
        self.assertTrue(found["choices"][0]["text"].startswith(SHARED.text(**fields, seed=ended)))
        self.assertEqual(generate("a", "--max-new-tokens", 80, "--temperature", 3, "--seed", ended, "--ignore-eos")["text"], found["choices"][0]["text"])

    def test_penalties_are_those_of_generate(self):
        fields = dict(prompt="One day, ", max_tokens=40, temperature=0, frequency_penalty=0.7, presence_penalty=-0.3)
        self.assertEqual(SHARED.text(**fields), generate("One day, ", "--max-new-tokens", 40, "--temperature", 0, "--frequency-penalty", 0.7,
                                                         "--presence-penalty", -0.3)["text"])

    def test_a_page_in_a_browser(self):
        with Server("--cors-origin", "https://example.org") as server:
            for method, status in (("OPTIONS", 204), ("POST", 200)):
                found, headers, _ = server.ask(method, "/v1/completions", {"prompt": "a", "max_tokens": 1} if method == "POST" else None)
                self.assertEqual((found, headers["Access-Control-Allow-Origin"]), (status, "https://example.org"))
            self.assertEqual(server.ask("OPTIONS", "/v1/models")[1]["Access-Control-Allow-Methods"], "GET, HEAD")
            self.assertEqual(server.ask("OPTIONS", "/elsewhere")[0], 404)
        self.assertEqual(SHARED.ask("OPTIONS", "/v1/completions")[0], 405)

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
        subprocess.run([model_server.MAKE_MODEL, model_server.WORK / "byte-level", REPOSITORY / "tests/text/byte_bpe/llama3/tokenizer.json"], check=True, capture_output=True)
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
            self.refuse(body, "not valid JSON, at byte ")
        self.refuse('{"prompt": "a"} x', "at byte 17")
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
                             "frequency_penalty": [-3], "min_tokens": [1], "response_format": [{"type": "json_object"}], "guided_regex": ["a*"]}.items():
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
        # So are encodings.
        found, headers, text = SHARED.ask("GET", "/health", headers={"Accept-Encoding": "gzip, br"})
        self.assertEqual((found, headers["Content-Encoding"]), (200, None))
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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + model_server.take_programs(sys.argv[1:]))
