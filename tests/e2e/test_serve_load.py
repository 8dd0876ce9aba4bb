"""Thousands of requests of random kinds at once, most of which end in the middle; then the server is as before.

MICA_LOAD_REQUESTS is how many, MICA_LOAD_SEED which.
"""
import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import tempfile
import threading
import time
import unittest
import urllib.request

import mica
import serve
from serve import control, grpc, inference

GRANITE = mica.GOLDEN / "granite"
REQUESTS = int(os.environ.get("MICA_LOAD_REQUESTS", "10000"))
SEED = int(os.environ.get("MICA_LOAD_SEED", "1"))
CLIENTS = 8
WARM_UP = 1000       # requests before files and memory are looked at
GROWTH_BYTES = 24 << 20
SETTLE_S = 60
VOCAB, CONTEXT = 1000, 256
TENANTS = ("acme", "blue")
ADAPTERS = ("lora-all", "lora-o", "alora-header", "nobody's")
INVOCATION = json.loads((GRANITE / "adapters/alora-header/adapter_config.json").read_text())["alora_invocation_tokens"]
Code = grpc.StatusCode


def key(name):
    return serve.bearer(f"{name}-key")


def tenants_file():
    f = tempfile.NamedTemporaryFile("w", suffix=".json")
    f.write(serve.tenants_text(*(serve.tenant(n, adapters=["*"], max_concurrency=24, max_queue=16) for n in TENANTS)))
    f.flush()
    return f


class Wire:
    """A connection to the server that can be cut; stock clients keep theirs for a while after they close them."""

    def __init__(self, address):
        host, port = address.split(":")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.far = socket.create_connection((host, int(port)))
        self.near = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            self.near, _ = self.listener.accept()
        except OSError:
            return
        threading.Thread(target=self.copy, args=(self.near, self.far), daemon=True).start()
        self.copy(self.far, self.near)

    @staticmethod
    def copy(source, target):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass

    def cut(self):
        for s in (self.listener, self.far, self.near):
            if s:
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)
                s.close()


class Client:
    """One of the callers; what it did and how calls ended is in `ended`."""

    def __init__(self, server, seed):
        self.server, self.rng, self.ended, self.errors = server, random.Random(seed), {}, []
        self.channel = server.connect()
        self.kinds = {self.whole: 40, self.cancelled: 14, self.late: 14, self.bad: 10, self.aborted: 10,
                      self.disconnects: 4, self.garbage: 4, self.flood: 1, self.loads: 3}

    def run(self, count):
        for kind in self.rng.choices(list(self.kinds), list(self.kinds.values()), k=count):
            try:
                self.note(kind.__name__, kind())
            except Exception as e:  # pylint: disable=broad-except
                self.errors.append(f"{kind.__name__}: {e!r}")
        self.channel.close()

    def note(self, kind, code):
        self.ended[kind, code] = self.ended.get((kind, code), 0) + 1

    def stub(self):
        return serve.inference_grpc.InferenceStub(self.channel)

    def request(self, longest=40):
        rng = self.rng
        r = inference.GenerateRequest(request_id=f"{rng.randrange(1 << 60)}" if rng.random() < .5 else "")
        first = rng.randrange(4) * 50  # few beginnings, so that many share blocks
        r.token_ids.ids.extend(range(first + 3, first + 3 + rng.randint(1, min(120, CONTEXT - 30 - longest))))
        if rng.random() < .5:
            r.lora_name = rng.choice(ADAPTERS)
        if r.lora_name == "alora-header" and rng.random() < .8:
            r.token_ids.ids.extend(INVOCATION)
        r.stopping.max_new_tokens = rng.randint(1, longest)
        r.stopping.ignore_eos = rng.random() < .8
        r.temperature = rng.choice((0, 0, 1))
        r.response.output_token_ids = True
        if rng.random() < .2:
            r.response.output_logprobs = True
            r.response.output_candidates.top_n = rng.randint(1, 5)
        if rng.random() < .1:
            r.response.prompt_logprobs = True
        if rng.random() < .1:
            r.kv.cache_salt = f"salt {rng.randrange(50)}"
        return r

    def begin(self, r, timeout=60):
        return self.stub().GenerateStream(r, metadata=key(self.rng.choice(TENANTS)), timeout=timeout)

    def take(self, call, most=1 << 30):
        """Reads at most that many messages. -> the status where the call ended, else None; how many tokens"""
        tokens = 0
        try:
            for _ in range(most):
                tokens += len(next(call).outputs.token_ids)
        except StopIteration:
            return Code.OK, tokens
        except grpc.RpcError as e:
            return e.code(), tokens
        return None, tokens

    def expect(self, code, *allowed):
        assert code in allowed, code
        return code

    # ---- kinds; each gives a status ----

    def whole(self):
        r = self.request()
        code, tokens = self.take(self.begin(r))
        if code == Code.OK and r.stopping.ignore_eos:
            assert tokens == r.stopping.max_new_tokens, (tokens, r)
        missing = r.lora_name == "nobody's"
        return self.expect(code, *((Code.NOT_FOUND,) if missing else (Code.OK, Code.RESOURCE_EXHAUSTED)),
                           *((Code.NOT_FOUND,) if r.lora_name == "lora-o" else ()))

    def cancelled(self):
        call = self.begin(self.request(200))
        code, _ = self.take(call, self.rng.randrange(5))
        call.cancel()
        return code

    def late(self):
        code, _ = self.take(self.begin(self.request(200), timeout=self.rng.uniform(.0005, .03)))
        return self.expect(code, Code.OK, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND)

    def bad(self):
        r = self.request()
        r.lora_name = ""
        self.rng.choice((lambda: r.token_ids.ids.append(VOCAB), lambda: r.token_ids.ids.extend([5] * CONTEXT),
                         lambda: setattr(r.sampling, "top_p", 7), lambda: setattr(r.sampling, "min_p", -1),
                         lambda: setattr(r, "text", ""), lambda: setattr(r.sampling, "num_sequences", 2),
                         lambda: r.decoding.allowed_token_ids.append(4),
                         lambda: setattr(r.response.output_candidates, "top_n", 1000),
                         lambda: setattr(r, "temperature", -1)))()
        return self.expect(self.take(self.begin(r))[0], Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)

    def aborted(self):
        r = self.request(200)
        r.request_id = f"{self.rng.randrange(1 << 60)}"
        who = key(self.rng.choice(TENANTS))
        call = self.stub().GenerateStream(r, metadata=who, timeout=60)
        code, _ = self.take(call, self.rng.randrange(3))
        serve.control_grpc.ControlStub(self.channel).Abort(control.AbortRequest(request_ids=[r.request_id]),
                                                           metadata=who, timeout=60)
        return code if code else self.expect(self.take(call)[0], Code.OK, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND)

    def disconnects(self):
        """A connection that is cut with calls in every state."""
        wire = Wire(self.server.address)
        channel = grpc.insecure_channel(wire.address, [("grpc.use_local_subchannel_pool", 1)])
        stub = serve.inference_grpc.InferenceStub(channel)
        calls = [stub.GenerateStream(self.request(200), metadata=key(self.rng.choice(TENANTS)), timeout=60)
                 for _ in range(self.rng.randint(1, 6))]
        for call in calls:
            self.take(call, self.rng.randrange(3))
        wire.cut()
        channel.close()

    def garbage(self):
        """What is no HTTP/2, or only at first."""
        host, port = self.server.address.split(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
        frame = bytes((0, 0, self.rng.randrange(40), self.rng.randrange(12), self.rng.randrange(256), 0, 0, 0,
                       self.rng.randrange(8)))
        with socket.create_connection((host, int(port)), timeout=10) as s:
            if self.rng.random() < .7:
                s.sendall(preface[:self.rng.choice((5, 24, len(preface)))])
            try:
                for _ in range(self.rng.randrange(4)):
                    s.sendall(frame + self.rng.randbytes(self.rng.randrange(60)))
            except ConnectionError:
                pass  # it has hung up

    def flood(self):
        """More at once than a tenant may have."""
        who = key(self.rng.choice(TENANTS))
        calls = [self.stub().Generate.future(self.request(), metadata=who, timeout=60) for _ in range(60)]
        for call in calls:
            self.expect(call.code(), Code.OK, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND)

    def loads(self):
        """An adapter goes while others use it, and comes back by the next that names it."""
        stub = serve.control_grpc.ControlStub(self.channel)
        try:
            if self.rng.random() < .5:
                stub.UnloadLora(control.UnloadLoraRequest(lora_name="lora-o"), metadata=key("root"), timeout=60)
            else:
                stub.LoadLora(control.LoadLoraRequest(lora_name="lora-o", source_path="lora-o"), metadata=key("root"),
                              timeout=60)
        except grpc.RpcError as e:
            return self.expect(e.code(), Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.RESOURCE_EXHAUSTED)
        return Code.OK


class Load(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.file = tenants_file()
        cls.folder = tempfile.TemporaryDirectory()
        for name in ADAPTERS[:3]:
            shutil.copytree(GRANITE / "adapters" / name, pathlib.Path(cls.folder.name) / name)
        cls.server = serve.Server(GRANITE, ["--tenants", cls.file.name, "--lora-root", cls.folder.name,
                                            "--lora-lazy-load", "--max-model-len", CONTEXT, "--max-num-seqs", 16,
                                            "--max-loras", 2, "--num-gpu-blocks-override", 96])

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        cls.folder.cleanup()
        assert status == 0

    def metric(self, name):
        page = urllib.request.urlopen(f"http://{self.server.http}/metrics", timeout=30).read().decode()
        return [float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"vllm:{name}{{")]

    def resident_bytes(self):
        fields = pathlib.Path(f"/proc/{self.server.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE")

    def answers(self):
        """Of fixed requests: the same before and after."""
        with self.server.connect() as channel:
            stub = serve.inference_grpc.InferenceStub(channel)
            found = []
            for name in ("", *ADAPTERS[:3]):
                r = inference.GenerateRequest(lora_name=name, request_id="same", temperature=1)
                r.token_ids.ids.extend([*range(7, 60), *INVOCATION])
                r.stopping.max_new_tokens = 30
                r.response.output_token_ids = r.response.output_logprobs = True
                out = stub.Generate(r, metadata=key("acme"), timeout=60).outputs
                found.append((list(out.token_ids), list(out.logprobs)))
            return found

    def run_clients(self, count, seed):
        clients = [Client(self.server, f"{seed} {i}") for i in range(CLIENTS)]
        threads = [threading.Thread(target=c.run, args=(count // CLIENTS,)) for c in clients]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        ended = {}
        for c in clients:
            self.assertEqual(c.errors[:5], [], f"seed {SEED}")
            for what, n in c.ended.items():
                ended[what] = ended.get(what, 0) + n
        return ended

    def settled(self, files):
        """Nothing runs or waits, and no block or connection is held."""
        until = time.monotonic() + SETTLE_S
        while True:
            state = (self.metric("num_requests_running"), self.metric("num_requests_waiting"),
                     self.metric("kv_cache_usage_perc"), serve.open_files(self.server.process))
            if state[:3] == ([0], [0], [0]) and state[3] <= files:
                return
            if time.monotonic() > until:
                self.fail(f"running, waiting, blocks, files: {state}, files before: {files}; now "
                          f"{serve.names_of_open_files(self.server.process)}")
            time.sleep(.1)

    def test_random_requests_leave_nothing_behind(self):
        before = self.answers()
        self.run_clients(WARM_UP, "warm")  # gRPC keeps descriptors and memory of its own
        time.sleep(.5)
        files = serve.open_files(self.server.process)
        self.settled(files)
        memory = self.resident_bytes()
        ended = self.run_clients(REQUESTS, SEED)
        self.settled(files)
        self.assertEqual(self.answers(), before)
        if mica.build_dir().name not in ("dev", "tsan"):  # sanitizers keep what was freed
            self.assertLess(self.resident_bytes() - memory, GROWTH_BYTES)
        for what in (("whole", Code.OK), ("late", Code.DEADLINE_EXCEEDED), ("bad", Code.INVALID_ARGUMENT),
                     ("aborted", Code.OK), ("loads", Code.OK), ("cancelled", None), ("flood", None)):
            self.assertGreater(ended.get(what, 0), 0, ended)


if __name__ == "__main__":
    unittest.main()
