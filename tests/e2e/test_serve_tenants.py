"""`mica serve --tenants`: keys, what a tenant sees, its limits, its K/V, and the file read again."""
import json
import pathlib
import random
import signal
import subprocess
import tempfile
import time
import unittest

import mica
import serve
from serve import bearer, control, grpc, health, inference, sha256, tenant

Code = grpc.StatusCode
GRANITE = mica.GOLDEN / "granite"
ADAPTERS = {name: GRANITE / "adapters" / name for name in ("lora-all", "lora-o", "lora-qkv")}
LENGTH = 400
FLAGS = ("--max-model-len", "512", "--kv-cache-memory-bytes", "64M")


def request(tokens=4, first=10, **more):
    r = inference.GenerateRequest(**more)
    r.token_ids.ids.extend(range(first, first + 40))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    return r


def tokens_of(stream):
    return sum(len(m.outputs.token_ids) for m in stream)


class Tenants:
    """A server with a tenants file."""

    def __init__(self, *tenants, flags=(), admin=True, adapters=ADAPTERS):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".json")
        self.write(*tenants, admin=admin)
        self.server = serve.Server(GRANITE, [*FLAGS, "--tenants", self.file.name, *flags], adapters=adapters)

    def write(self, *tenants, admin=True):
        pathlib.Path(self.file.name).write_text(serve.tenants_text(*tenants, admin=admin))

    def reload(self, said):
        before = self.server.said().count(said)
        self.server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while self.server.said().count(said) == before:
            assert time.monotonic() < until, self.server.said()
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.server.__exit__(*unused)

    def generate(self, who, r=None):
        return self.server.inference.Generate(r or request(), metadata=bearer(f"{who}-key"), timeout=60)

    def stream(self, who, r=None):
        return self.server.inference.GenerateStream(r or request(), metadata=bearer(f"{who}-key"), timeout=120)

    def future(self, who, r=None, timeout=60):
        return self.server.inference.Generate.future(r or request(), metadata=bearer(f"{who}-key"), timeout=timeout)

    def held(self, who, requests):
        """Calls of requests of which a tenant's queue takes all but one, after the server has refused that one."""
        calls = [self.future(who, r) for r in requests]
        until = time.monotonic() + 60
        while not any(c.done() for c in calls):
            assert time.monotonic() < until
            time.sleep(0.02)
        refused = next(c for c in calls if c.done())
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "max_queue" in refused.details(), refused
        return [c for c in calls if c is not refused]

    def cached(self, who, r):
        _, call = self.server.inference.Generate.with_call(r, metadata=bearer(f"{who}-key"), timeout=60)
        return int(dict(call.trailing_metadata())["mica-cached-tokens"])


class Checks(unittest.TestCase):
    def refused(self, code, call, *args, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call(*args, **more)
            if hasattr(answer, "__iter__") and not hasattr(answer, "DESCRIPTOR"):
                list(answer)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception


class Keys(Checks):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.TemporaryDirectory()
        cls.t = Tenants(tenant("acme", adapters=["lora-all", "acme-*"]), tenant("blue"),
                        tenant("loader", adapters=["*"], may_load=True),
                        tenant("some", adapters=["new-*"], may_load=True),
                        flags=["--lora-root", GRANITE / "adapters"])

    @classmethod
    def tearDownClass(cls):
        assert cls.t.server.stop() == 0

    def test_no_key_or_a_wrong_one(self):
        s = self.t.server
        for metadata in ((), bearer("nobody"), bearer(""), (("authorization", "Basic acme-key"),),
                         (("authorization", "acme-key"),), bearer(sha256("acme-key")), bearer("acme-key "),
                         (("x-api-key", "acme-key"),)):
            for call, message in ((s.inference.Generate, request()), (s.inference.GenerateStream, request()),
                                  (s.control.GetServerInfo, control.GetServerInfoRequest()),
                                  (s.control.GetModelInfo, control.GetModelInfoRequest()),
                                  (s.control.ListLoras, control.ListLorasRequest()),
                                  (s.control.GetKvEventSources, control.GetKvEventSourcesRequest()),
                                  (s.control.Abort, control.AbortRequest()),
                                  (s.control.LoadLora, control.LoadLoraRequest(lora_name=b"x", source_path=b"lora-o")),
                                  (s.control.UnloadLora, control.UnloadLoraRequest(lora_name=b"lora-all"))):
                self.refused(Code.UNAUTHENTICATED, call, message, metadata=metadata)

    def test_health_needs_no_key(self):
        answer = self.t.server.health.Check(health.HealthCheckRequest())
        self.assertEqual(answer.status, health.HealthCheckResponse.SERVING)

    def test_the_scheme_is_read_in_any_case(self):
        self.t.server.inference.Generate(request(), metadata=(("authorization", "bearer acme-key"),))

    def test_a_hidden_adapter_answers_as_one_that_does_not_exist(self):
        self.t.generate("acme", request(lora_name="lora-all"))
        texts = set()
        for who in ("acme", "blue"):
            for name in ("lora-o", "lora-qkv", "not-there", "acme-new"):
                refused = self.refused(Code.NOT_FOUND, self.t.generate, who, request(lora_name=name))
                texts.add(refused.details().replace(name, "N"))
        self.assertEqual(len(texts), 1, texts)
        self.refused(Code.NOT_FOUND, self.t.generate, "blue", request(lora_name="lora-all"))

    def test_lists_show_what_a_tenant_sees(self):
        def names(who):
            answer = self.t.server.control.ListLoras(control.ListLorasRequest(), metadata=bearer(f"{who}-key"))
            return {a.lora_name if isinstance(a.lora_name, str) else a.lora_name.decode() for a in answer.adapters}
        self.assertEqual(names("acme"), {"lora-all"})
        self.assertEqual(names("blue"), set())
        self.assertLessEqual(set(ADAPTERS), names("loader"))
        self.assertLessEqual(set(ADAPTERS), names("root"))
        info = self.t.server.control.GetServerInfo(control.GetServerInfoRequest(), metadata=bearer("blue-key"))
        self.assertEqual(info.max_model_len, 512)

    def load(self, who, name, path="lora-layer"):
        return self.t.server.control.LoadLora(control.LoadLoraRequest(lora_name=name, source_path=path),
                                              metadata=bearer(f"{who}-key"))

    def unload(self, who, name):
        return self.t.server.control.UnloadLora(control.UnloadLoraRequest(lora_name=name),
                                                metadata=bearer(f"{who}-key"))

    def test_who_may_load(self):
        for who in ("acme", "blue"):
            self.refused(Code.PERMISSION_DENIED, self.load, who, "acme-new")
            self.refused(Code.PERMISSION_DENIED, self.unload, who, "lora-all")
        for who in ("root", "loader"):
            self.load(who, "acme-new")
            self.t.generate("acme", request(lora_name="acme-new"))
            self.unload(who, "acme-new")
            self.refused(Code.NOT_FOUND, self.t.generate, "acme", request(lora_name="acme-new"))
        self.refused(Code.PERMISSION_DENIED, self.load, "some", "lora-all")
        self.refused(Code.NOT_FOUND, self.unload, "some", "lora-all")
        self.load("some", "new-1")
        self.unload("some", "new-1")

    def test_the_admin_generates_nothing(self):
        self.refused(Code.PERMISSION_DENIED, self.t.generate, "root")

    def end_of_one_aborted_by(self, who):
        """acme's request, which `who` aborts after its first message, and how it ended."""
        call = self.t.stream("acme", request(LENGTH, request_id="mine"))
        next(iter(call))
        self.t.server.control.Abort(control.AbortRequest(request_ids=["mine"]), metadata=bearer(f"{who}-key"))
        return list(call)[-1].outputs.finish_info

    def test_abort_reaches_a_tenants_own(self):
        end = self.end_of_one_aborted_by("blue")
        self.assertEqual((end.finish_reason, end.num_output_tokens), (inference.FinishInfo.LENGTH, LENGTH))
        for _ in range(50):  # a tiny model may be done before it is told
            end = self.end_of_one_aborted_by("acme")
            if end.finish_reason == inference.FinishInfo.ABORTED:
                break
        self.assertEqual(end.finish_reason, inference.FinishInfo.ABORTED)
        self.assertLess(end.num_output_tokens, LENGTH)


class KvGroups(Checks):
    def test_nothing_is_shared_across_groups(self):
        with Tenants(tenant("a"), tenant("b"), tenant("c", cache_group="team"), tenant("d", cache_group="team"),
                     tenant("e", cache_group="a")) as t:
            r = request(8, first=100)
            self.assertEqual(t.cached("a", r), 0)
            self.assertEqual(t.cached("a", r), 39)
            self.assertEqual(t.cached("b", r), 0)
            self.assertEqual(t.cached("e", r), 0)  # a group named like a tenant is not that tenant's
            self.assertEqual(t.cached("c", r), 0)
            self.assertEqual(t.cached("d", r), 39)
            salted = request(8, first=100)
            salted.kv.cache_salt = "own"
            self.assertEqual(t.cached("c", salted), 0)
            self.assertEqual(t.cached("d", salted), 39)
            self.assertEqual(t.cached("a", salted), 0)


class Timing(Checks):
    """A sign test on pairs: what is told apart by time is faster, or slower, in nearly all of them."""
    ROUNDS, TELLING = 40, 34   # heads or tails gives 34 or more of 40 once in 200 000 times

    def seconds(self, t, who, prompt):
        r = inference.GenerateRequest()
        r.token_ids.ids.extend(prompt)
        r.stopping.max_new_tokens = 1
        begun = time.monotonic()
        t.generate(who, r)
        return time.monotonic() - begun

    def test_no_latency_tells_what_another_tenant_has_asked(self):
        rng = random.Random(7)
        others = own = 0
        # The slowest kernels, so that a prompt of a tiny model takes longer than a call varies by.
        with Tenants(tenant("a"), tenant("b"), flags=["--cpu-kernels", "portable"]) as t:
            for i in range(self.ROUNDS):
                known, new, newer = (rng.choices(range(10, 250), k=500) for _ in range(3))
                self.seconds(t, "a", known)
                pair = [known, new] if i % 2 else [new, known]
                took = {id(p): self.seconds(t, "b", p) for p in pair}
                others += took[id(known)] < took[id(new)]
                own += self.seconds(t, "a", known) < self.seconds(t, "a", newer)
        self.assertGreaterEqual(own, self.TELLING)  # to those who may know it shows
        self.assertIn(others, range(self.ROUNDS - self.TELLING + 1, self.TELLING))


class Order(Checks):
    def test_within_a_tenant_the_longest_cached_prefix_goes_first(self):
        with Tenants(tenant("a", max_concurrency=1)) as t:
            t.generate("a", request(first=200))
            ended = []
            calls = []
            for first in (*range(1, 14), 200):
                r = request(2 if first == 200 else 400, first=first)
                call = t.future("a", r)
                call.add_done_callback(lambda _, first=first: ended.append(first))
                calls.append(call)
            for call in calls:
                call.result()
            self.assertLess(ended.index(200), 13, ended)  # it came last


class Limits(Checks):
    def test_concurrency_and_queue(self):
        with Tenants(tenant("a", max_concurrency=1, max_queue=1), tenant("b", max_concurrency=2, max_queue=0),
                     flags=serve.slow_device()) as t:
            first = t.stream("a", request(450))
            next(iter(first))
            waiting, = t.held("a", [request(3, first=60), request(3, first=99)])
            streams = [t.stream("b", request(400, first=i)) for i in (20, 80)]
            for s in streams:
                next(iter(s))
            refused = self.refused(Code.RESOURCE_EXHAUSTED, t.generate, "b")
            self.assertIn("max_concurrency 2", refused.details())
            for s in (first, *streams):
                s.cancel()
            self.assertEqual(len(waiting.result().outputs.token_ids), 3)
            t.generate("a")
            t.generate("b")

    def test_a_request_stops_counting_before_its_status_is_sent(self):
        with Tenants(tenant("a", max_concurrency=1, max_queue=0)) as t:
            for i in range(100):
                t.generate("a", request(1 + i % 3, first=i))

    def test_held_requests_end_by_cancel_deadline_and_abort(self):
        with Tenants(tenant("a", max_concurrency=1, max_queue=200), flags=serve.slow_device()) as t:
            running = t.stream("a", request(450))
            next(iter(running))
            cancelled = t.stream("a")
            late = t.future("a", timeout=0.05)
            self.assertEqual(late.exception().code(), Code.DEADLINE_EXCEEDED)
            aborted = t.future("a", request(request_id="gone"))
            cancelled.cancel()
            while not aborted.done():  # an Abort that is there before it finds nothing
                t.server.control.Abort(control.AbortRequest(request_ids=["gone"]), metadata=bearer("a-key"))
                time.sleep(0.05)
            self.assertEqual(list(aborted.result().outputs.token_ids), [])
            running.cancel()
            t.generate("a")

    def test_a_bad_request_is_refused_before_it_waits_and_counts_for_nothing(self):
        with Tenants(tenant("a", max_concurrency=1, requests_per_minute=3), flags=serve.slow_device()) as t:
            running = t.stream("a", request(450))
            next(iter(running))
            for _ in range(10):
                refused = self.refused(Code.INVALID_ARGUMENT, t.generate, "a", request(500))
                self.assertIn("max_new_tokens", refused.details())
            self.assertTrue(running.is_active())
            running.cancel()
            t.generate("a")

    def test_a_prompt_beyond_the_model_is_cut_where_it_says_so(self):
        with Tenants(tenant("a", tokens_per_minute=100)) as t:
            r = request(4, truncate_prompt_tokens=7)
            r.text = "hello world " * 2000
            answer = t.generate("a", r)
            self.assertEqual(answer.prompt_info.num_prompt_tokens, 7)
            r.truncate_prompt_tokens = 0
            self.assertIn("prompt: ", self.refused(Code.INVALID_ARGUMENT, t.generate, "a", r).details())

    def test_per_minute(self):
        with Tenants(tenant("r", requests_per_minute=3), tenant("k", tokens_per_minute=100)) as t:
            for _ in range(3):
                t.generate("r")
            refused = self.refused(Code.RESOURCE_EXHAUSTED, t.generate, "r")
            self.assertRegex(refused.details(), r"requests_per_minute 3 is used up: try again in \d+ s")
            wait = int(dict(refused.trailing_metadata())["retry-after"])
            self.assertIn(wait, range(1, 21))
            t.generate("k", request(30))
            refused = self.refused(Code.RESOURCE_EXHAUSTED, t.generate, "k")
            self.assertRegex(refused.details(), r"tokens_per_minute 100 is used up: try again in \d+ s")

    def test_the_drain_lets_held_requests_run(self):
        with Tenants(tenant("a", max_concurrency=1, max_queue=3), flags=serve.slow_device()) as t:
            running = t.stream("a", request(450))
            next(iter(running))
            held = t.held("a", [request(40, first=i) for i in range(4)])
            t.server.process.terminate()
            for call in held:
                self.assertEqual(len(call.result().outputs.token_ids), 40)
            self.assertEqual(t.server.process.wait(60), 0, t.server.said())


class File(Checks):
    def test_it_is_read_again_and_a_bad_one_changes_nothing(self):
        with Tenants(tenant("a")) as t:
            t.generate("a")
            self.refused(Code.UNAUTHENTICATED, t.generate, "b")
            running = t.stream("a", request(300))
            next(iter(running))
            t.write(tenant("b", adapters=["*"]))
            t.reload("tenants: read again")
            t.generate("b", request(lora_name="lora-o"))
            self.refused(Code.UNAUTHENTICATED, t.generate, "a")
            self.assertEqual(tokens_of(running), 300)
            pathlib.Path(t.file.name).write_text('{"tenants": [{"name": "c"}]}')
            t.reload("tenants: nothing has changed: ")
            self.assertIn("tenants[0].key_sha256 must be a SHA-256", t.server.said())
            t.generate("b")

    def test_a_bad_file_stops_the_start(self):
        for text, said in (("{", "not JSON"), ("[]", "object"), ('{"tenants": {}}', "tenants must be a list"),
                           (json.dumps({"tenants": [tenant("a", wieght=1)]}), "'wieght' is no known key"),
                           (json.dumps({"tenants": [tenant("a", weight=0)]}), "weight must be a number"),
                           (json.dumps({"tenants": [tenant("a"), tenant("a")]}), "'a' is there twice"),
                           (json.dumps({"tenants": [tenant("a", max_concurrency=0)]}), "max_concurrency must be")):
            with tempfile.NamedTemporaryFile("w") as f:
                f.write(text)
                f.flush()
                done = subprocess.run([mica.build_dir() / "mica", "serve", GRANITE, "--tenants", f.name],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn(said, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


class AdminPort(Checks):
    def test_loading_moves_there(self):
        root = GRANITE / "adapters"
        with Tenants(tenant("loader", adapters=["*"], may_load=True), flags=["--lora-root", root, "--admin-port", "0"],
                     adapters=None) as t:
            at = t.server.admin
            stub = serve.control_grpc.ControlStub(grpc.insecure_channel(at))
            load = control.LoadLoraRequest(lora_name="x", source_path="lora-o")
            unload = control.UnloadLoraRequest(lora_name="x")
            self.refused(Code.PERMISSION_DENIED, t.server.control.LoadLora, load, metadata=bearer("root-key"))
            self.refused(Code.PERMISSION_DENIED, stub.LoadLora, load, metadata=bearer("loader-key"))
            self.refused(Code.UNAUTHENTICATED, stub.LoadLora, load)
            stub.LoadLora(load, metadata=bearer("root-key"))
            self.assertEqual(len(stub.ListLoras(control.ListLorasRequest(), metadata=bearer("root-key")).adapters), 1)
            stub.UnloadLora(unload, metadata=bearer("root-key"))
            t.server.control.LoadLora(load, metadata=bearer("loader-key"))
            t.generate("loader", request(lora_name="x"))
            self.refused(Code.UNIMPLEMENTED, serve.inference_grpc.InferenceStub(grpc.insecure_channel(at)).Generate,
                         request(), metadata=bearer("loader-key"))

    def test_without_a_tenants_file_it_moves_too(self):
        with serve.Server(GRANITE, ["--lora-root", GRANITE / "adapters", "--admin-port", "0", *FLAGS]) as server:
            load = control.LoadLoraRequest(lora_name="x", source_path="lora-o")
            self.refused(Code.PERMISSION_DENIED, server.control.LoadLora, load)
            serve.control_grpc.ControlStub(grpc.insecure_channel(server.admin)).LoadLora(load)
            server.inference.Generate(request(lora_name="x"))


if __name__ == "__main__":
    unittest.main()
