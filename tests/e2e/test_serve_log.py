"""--enable-log-requests: one line of JSON for each request, whatever ended it; ids of requests and traces."""
import json
import time
import unittest

import mica
import serve
from serve import grpc, inference

GRANITE = mica.GOLDEN / "granite"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def request(tokens, **fields):
    r = inference.GenerateRequest(**fields)
    r.token_ids.ids.extend(range(10, 40))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    return r


def lines(server):
    return [json.loads(x) for x in server.said().splitlines() if x.startswith("{")]


def line_of(server, request_id):
    until = time.monotonic() + 30
    while True:
        found = [x for x in lines(server) if x["request_id"] == request_id]
        if found:
            assert len(found) == 1, found
            return found[0]
        assert time.monotonic() < until, server.said()


class Log(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = serve.Server(GRANITE, ["--enable-log-requests", "--max-model-len", "512"],
                                  adapters={"uq": GRANITE / "adapters" / "lora-all"})

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_a_line_tells_what_the_answer_told(self):
        for i, cached in enumerate((0, 29)):
            self.server.inference.Generate(request(7, request_id=f"twice-{i}", lora_name="uq"))
            line = line_of(self.server, f"twice-{i}")
            numbers = {k: line.pop(k) for k in ("queue_ms", "ttft_ms", "total_ms")}
            self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(line, {
                "event": "request", "request_id": f"twice-{i}", "x_request_id": f"twice-{i}", "traceparent": None,
                "tenant": None, "model": mica.BASE, "adapter": "uq", "status": "OK", "finish": "length",
                "prompt_tokens": 30, "cached_tokens": cached, "generated_tokens": 7})
            self.assertLessEqual(0, numbers["queue_ms"])
            self.assertLessEqual(numbers["queue_ms"], numbers["ttft_ms"])
            self.assertLessEqual(numbers["ttft_ms"], numbers["total_ms"])

    def test_ids_come_back_and_are_in_the_line(self):
        for sent, expected in (("from-a-router", "from-a-router"), ("x" * 256, "x" * 256), ("x" * 257, "ids-2")):
            name = f"ids-{len(sent) - 255 if len(sent) > 255 else 0}"
            metadata = (("x-request-id", sent), ("traceparent", TRACE))
            _, call = self.server.inference.Generate.with_call(request(2, request_id=name), metadata=metadata)
            self.assertEqual(serve.trailers(call)["x-request-id"], expected)
            line = line_of(self.server, name)
            self.assertEqual((line["x_request_id"], line["traceparent"]), (expected, TRACE))

    def test_a_refused_request_has_its_status_and_its_id_too(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.inference.Generate(request(1000, request_id="too-long"), metadata=(("x-request-id", "t-1"),))
        self.assertEqual(dict(caught.exception.trailing_metadata())["x-request-id"], "t-1")
        line = line_of(self.server, "too-long")
        self.assertEqual((line["status"], line["finish"], line["ttft_ms"]), ("INVALID_ARGUMENT", None, None))
        serve.refused(self, lambda: self.server.inference.Generate(request(1, request_id="who", lora_name="nobody")),
                      grpc.StatusCode.NOT_FOUND)
        line = line_of(self.server, "who")
        self.assertEqual((line["status"], line["adapter"]), ("NOT_FOUND", "nobody"))

    def test_a_cancelled_request_says_so(self):
        with serve.Server(GRANITE, ["--enable-log-requests", *serve.slow_device()]) as server:
            call = server.inference.GenerateStream(request(400, request_id="left"))
            next(iter(call))
            call.cancel()
            line = line_of(server, "left")
        self.assertEqual((line["status"], line["finish"]), ("CANCELLED", "abort"))

    def test_a_hostile_id_stays_on_its_line(self):
        name = 'a\n{"event":"request","request_id":"forged"}\x1b[2J\x9b31m\u2028"'
        self.server.inference.Generate(request(1, request_id=name))
        self.assertIsNone(line_of(self.server, name)["x_request_id"])
        self.assertNotIn("forged", [x["request_id"] for x in lines(self.server)])
        self.assertFalse(set("\x1b\x9b\u2028") & set(self.server.said()))


class Off(unittest.TestCase):
    def test_nothing_is_logged_unless_it_is_asked_for(self):
        for flags in ((), ("--enable-log-requests", "--no-enable-log-requests"), ("--disable-log-requests",)):
            with serve.Server(GRANITE, list(flags)) as server:
                server.inference.Generate(request(2, request_id="quiet"))
            self.assertNotIn("quiet", server.said())


if __name__ == "__main__":
    unittest.main()
