"""What the operator of fbi-run serve sees: metrics, keys, options, and that it stops cleanly.
Usage: operation_test.py PATH-OF-FBI-RUN PATH-OF-MAKE_PACKED_MODEL [unittest arguments]"""
import http.client
import json
import math
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/support"), str(REPOSITORY / "tests/python")]
import model_server  # noqa: E402
from interpreter import interpreter  # noqa: E402
from model_server import FOREVER, LIMIT, Server, events_of, samples_of  # noqa: E402
from processes import wait_until  # noqa: E402


SHARED = None  # a server that most tests use


def setUpModule():
    global SHARED
    model_server.prepare()
    SHARED = Server("--queue", "200")


def tearDownModule():
    model_server.stop(SHARED)


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
        shutil.copytree(model_server.WORK / "model", model_server.WORK / "broken", ignore=shutil.ignore_patterns("checksums.json"))
        (file,) = (model_server.WORK / "broken").glob("*.safetensors")
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
        file = model_server.WORK / "keys"
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
        self.refuse(model_server.WORK / "no-such-file", "no-such-file")
        self.refuse(model_server.WORK, str(model_server.WORK))

    def refuse(self, file, part):
        done = subprocess.run([model_server.FBI_RUN, "serve", "--model", model_server.WORK / "model", "--port", "0", "--api-key-file", file], capture_output=True, text=True,
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
        process = subprocess.Popen([model_server.FBI_RUN, "serve", "--model", model_server.WORK / "model", "--port", "0", "--host", "::1"], stderr=subprocess.PIPE, text=True)
        with process:
            for line in process.stderr:
                if "listening on" in line:
                    self.assertRegex(line, r"http://\[::1\]:\d+\n")
                    process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(LIMIT), 0)

    def test_a_port_that_is_taken(self):
        done = subprocess.run([model_server.FBI_RUN, "serve", "--model", model_server.WORK / "model", "--port", str(SHARED.port)], capture_output=True, text=True,
                              timeout=LIMIT)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"port {SHARED.port}", done.stderr)
        self.assertIn("--port", done.stderr)

    def test_options(self):
        for words, part in ((("--port", "70000"), "0 to 65535"), (("--max-batch", "0"), "1 to 256"), (("--queue", "-1"), "--queue: expected 0 to 700"),
                            (("--host", "no.such.host.invalid"), "no.such.host.invalid"), (("--model", "nowhere"), "once is enough")):
            done = subprocess.run([model_server.FBI_RUN, "serve", "--model", model_server.WORK / "model", *words], capture_output=True, text=True, timeout=LIMIT)
            self.assertEqual(done.returncode, 2)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + model_server.take_programs(sys.argv[1:]))
