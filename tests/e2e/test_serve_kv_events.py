"""--kv-events-config: what a subscriber learns of the cache over ZeroMQ, and that it is what the cache holds."""
import json
import random
import subprocess
import tempfile
import time
import unittest

import mica
import msgpack
import serve
import zmq
from serve import control, grpc, inference

GRANITE = mica.GOLDEN / "granite"
ADAPTERS = {name: GRANITE / "adapters" / name for name in ("alora-all", "lora-all")}
INVOCATION = [1, 70, 260, 266, 2]   # alora-all's
BLOCK = 16
END = b"\xff" * 8
PATIENCE_S = 20
# In the order of the array format.
STORED = ("type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
          "extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window")
REMOVED = ("type", "block_hashes", "medium", "group_idx")


def flags(**config):
    config = {"enable_kv_cache_events": True, "endpoint": "tcp://127.0.0.1:*", "replay_endpoint": "tcp://127.0.0.1:*",
              **config}
    return ["--kv-events-config", json.dumps(config), "--max-model-len", "512"]


class Mirror:
    """The full blocks that events say can be found."""

    def __init__(self):
        self.blocks, self.children = {}, {}

    def apply(self, event):
        kind = event["type"]
        if kind == "AllBlocksCleared":
            self.__init__()
        for number, block in enumerate(event.get("block_hashes", ())):
            if kind == "BlockRemoved":
                gone = self.blocks.pop(block)
                del self.children[gone]
                continue
            size = event["block_size"]
            parent = event["parent_block_hash"] if number == 0 else event["block_hashes"][number - 1]
            assert parent is None or parent in self.blocks, event
            extra = tuple(event["extra_keys"][number] or ())
            name = (parent, tuple(event["token_ids"][number * size:(number + 1) * size]), event["lora_name"], extra)
            assert block not in self.blocks and name not in self.children, event
            self.blocks[block] = name
            self.children[name] = block

    def prefix(self, tokens, adapter=None, activation=None, salt=None):
        """How many leading tokens are in full blocks."""
        parent, at = None, 0
        while at + BLOCK <= len(tokens):
            lora = adapter if adapter and activation is not None and at + BLOCK > activation else None
            extra = ((lora,) if lora else ()) + ((salt,) if salt and parent is None else ())
            name = (parent, tuple(tokens[at:at + BLOCK]), lora, extra)
            if name not in self.children:
                break
            parent, at = self.children[name], at + BLOCK
        return at


class Follower:
    """Sockets of a router: SUB for what is published, DEALER for replay."""

    def __init__(self, server, topic=""):
        self.source, = server.control.GetKvEventSources(control.GetKvEventSourcesRequest()).sources
        self.context = zmq.Context()
        self.sub, self.dealer = self.context.socket(zmq.SUB), self.context.socket(zmq.DEALER)
        self.sub.connect(self.source.endpoint)
        self.sub.setsockopt_string(zmq.SUBSCRIBE, topic)
        self.sub.setsockopt(zmq.RCVTIMEO, PATIENCE_S * 1000)
        if self.source.replay_endpoint:
            self.dealer.connect(self.source.replay_endpoint)
        self.dealer.setsockopt(zmq.RCVTIMEO, PATIENCE_S * 1000)
        self.mirror, self.next = Mirror(), 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.context.destroy(linger=0)

    def replay(self, first=0):
        """-> [(number, payload)]"""
        self.dealer.send_multipart([b"", first.to_bytes(8, "big")])
        batches = []
        while True:
            empty, number, payload = self.dealer.recv_multipart()
            assert empty == b"", empty
            if number == END:
                assert payload == b"", payload
                return batches
            batches.append((int.from_bytes(number, "big"), payload))

    def receive(self):
        topic, number, payload = self.sub.recv_multipart()
        assert len(number) == 8, number
        return topic, int.from_bytes(number, "big"), payload

    def catch_up(self, is_there):
        """Applies what has come until the mirror is as expected."""
        until = time.monotonic() + PATIENCE_S
        while not is_there(self.mirror):
            for number, payload in self.replay(self.next):
                assert number == self.next, (number, self.next)
                self.next += 1
                for event in msgpack.unpackb(payload)[1]:
                    self.mirror.apply(event)
            assert time.monotonic() < until, self.mirror.blocks


def ask(server, tokens, adapter=None, generate=2, salt=None):
    """-> the answer's ids, cached tokens, activation"""
    r = inference.GenerateRequest(lora_name=adapter or "")
    r.token_ids.ids.extend(tokens)
    r.stopping.max_new_tokens = generate
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    if salt:
        r.kv.cache_salt = salt
    message, call = server.inference.Generate.with_call(r)
    known = serve.trailers(call)
    activation = None if known["mica-activation"] == "none" else int(known["mica-activation"])
    return list(message.outputs.token_ids), int(known["mica-cached-tokens"]), activation


def events_of(batches):
    return [event for _, payload in batches for event in msgpack.unpackb(payload)[1]]


class Published(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = serve.Server(GRANITE, flags(topic="kv@pod@granite"), adapters=ADAPTERS)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_sources_say_where(self):
        with Follower(self.server) as f:
            s = f.source
            self.assertRegex(s.endpoint, r"^tcp://127\.0\.0\.1:\d+$")
            self.assertRegex(s.replay_endpoint, r"^tcp://127\.0\.0\.1:\d+$")
            self.assertEqual((s.transport, s.encoding, s.schema_version), ("zmq", "msgpack", 1))
            self.assertEqual(s.topic, "kv@pod@granite")
            self.assertEqual((s.buffer_steps, s.hwm, s.max_queue_size), (10000, 100000, 100000))
            self.assertTrue(s.HasField("data_parallel_rank"))

    def test_a_prompts_full_blocks_are_published_as_vllm_does(self):
        rng = random.Random(1)
        with Follower(self.server, topic="kv@") as f:
            until = time.monotonic() + PATIENCE_S
            f.sub.setsockopt(zmq.RCVTIMEO, 200)
            while True:   # until the subscription has arrived
                prompt = mica.random_ids(rng, 2 * BLOCK + 5)
                before = time.time()
                ask(self.server, prompt)
                try:
                    topic, number, payload = f.receive()
                    break
                except zmq.Again:
                    self.assertLess(time.monotonic(), until)
            self.assertEqual(topic, b"kv@pod@granite")
            seconds, (event,), rank = msgpack.unpackb(payload)
            self.assertLess(abs(seconds - before), 60)
            self.assertIsInstance(seconds, float)
            self.assertEqual(rank, 0)
            hashes = event.pop("block_hashes")
            self.assertEqual(len(set(hashes)), 2)
            self.assertEqual(event, {
                "type": "BlockStored", "parent_block_hash": None, "token_ids": prompt[:2 * BLOCK], "block_size": BLOCK,
                "lora_id": None, "medium": "GPU", "lora_name": None, "extra_keys": [None, None], "group_idx": 0,
                "kv_cache_spec_kind": "full_attention"})
            answer, _, _ = ask(self.server, prompt, generate=2 * BLOCK)   # the two, and 33 rows more
            self.assertEqual(answer[:1], ask(self.server, prompt, generate=1)[0])
            first, second = (f.receive() for _ in range(2))
            self.assertEqual([first[1], second[1]], [number + 1, number + 2])
            (one,), (two,) = (msgpack.unpackb(p)[1] for _, _, p in (first, second))
            self.assertEqual(one["parent_block_hash"], hashes[1])
            self.assertEqual(two["parent_block_hash"], one["block_hashes"][0])
            self.assertEqual(one["token_ids"] + two["token_ids"], (prompt + answer)[2 * BLOCK:4 * BLOCK])

    def test_what_was_published_can_be_asked_for_again(self):
        rng = random.Random(2)
        with Follower(self.server) as f:
            prompt = mica.random_ids(rng, 60)
            ask(self.server, prompt)
            f.catch_up(lambda mirror: mirror.prefix(prompt) == 48)
            everything = f.replay()
            numbers = [number for number, _ in everything]
            self.assertEqual(numbers, list(range(len(numbers))))
            self.assertEqual(msgpack.unpackb(everything[0][1])[1], [{"type": "AllBlocksCleared"}])
            self.assertEqual(f.replay(numbers[-1]), everything[-1:])
            self.assertEqual(f.replay(numbers[-1] + 1), [])
            f.dealer.send_multipart([b"", b"short"])   # not answered, and nothing breaks
            f.dealer.send_multipart([(0).to_bytes(8, "big")])
            f.dealer.send_multipart([b"", (0).to_bytes(8, "big"), b"more", b"and more"])
            f.dealer.send_multipart([b"x", (0).to_bytes(8, "big")])
            self.assertEqual(f.replay(numbers[-1]), everything[-1:])

    def test_blocks_before_an_activation_are_bases(self):
        rng = random.Random(3)
        listed = self.server.control.ListLoras(control.ListLorasRequest()).adapters
        ids = {a.lora_name: a.lora_id for a in listed}
        shared = mica.random_ids(rng, 3 * BLOCK + 3)
        prompt = shared + INVOCATION + mica.random_ids(rng, 2 * BLOCK)
        with Follower(self.server) as f:
            ask(self.server, shared[::-1])
            f.catch_up(lambda mirror: mirror.prefix(shared[::-1]) == 3 * BLOCK)   # all of before has come
            _, cached, activation = ask(self.server, prompt, "alora-all")
            self.assertEqual(activation, len(shared))
            self.assertLess(cached, BLOCK)
            full = len(prompt) // BLOCK * BLOCK
            until = time.monotonic() + PATIENCE_S
            while not f.replay(f.next):
                self.assertLess(time.monotonic(), until)
            base, adapted = events_of(f.replay(f.next))
            self.assertEqual((base["lora_name"], base["lora_id"], base["extra_keys"]), (None, None, [None] * 3))
            self.assertEqual(base["token_ids"], prompt[:3 * BLOCK])
            self.assertEqual((adapted["lora_name"], adapted["lora_id"]), ("alora-all", ids["alora-all"]))
            self.assertEqual(adapted["extra_keys"], [["alora-all"]] * (full // BLOCK - 3))
            self.assertEqual(adapted["parent_block_hash"], base["block_hashes"][-1])
            self.assertEqual(adapted["token_ids"], prompt[3 * BLOCK:full])
            self.assertEqual(ask(self.server, shared + [9])[1], len(shared))   # base takes what the events call base's
            ask(self.server, prompt, "lora-all")   # a LoRA shares nothing with it
            while len(f.replay(f.next)) < 2:
                self.assertLess(time.monotonic(), until)
            lora = events_of(f.replay(f.next))[-1]
            self.assertEqual((lora["lora_name"], lora["parent_block_hash"]), ("lora-all", None))
            self.assertEqual(lora["token_ids"], prompt[:full])
            hashes = base["block_hashes"] + adapted["block_hashes"] + lora["block_hashes"]
            self.assertEqual(len(set(hashes)), len(hashes))

    def test_a_salt_is_in_the_first_blocks_keys(self):
        rng = random.Random(4)
        prompt = mica.random_ids(rng, 2 * BLOCK + 1)
        with Follower(self.server) as f:
            ask(self.server, prompt, salt="s-1")
            f.catch_up(lambda mirror: mirror.prefix(prompt, salt="s-1") == 2 * BLOCK)
            self.assertEqual(f.mirror.prefix(prompt), 0)
            ask(self.server, prompt)
            f.catch_up(lambda mirror: mirror.prefix(prompt) == 2 * BLOCK)


class Evicting(unittest.TestCase):
    def check(self, event_format):
        """A router's view against the cache's own, while blocks come and go."""
        rng = random.Random(5)
        few = ["--num-gpu-blocks-override", "24", "--max-model-len", "300"]
        with serve.Server(GRANITE, flags(event_format=event_format) + few, adapters=ADAPTERS) as server, \
                Follower(server) as f:
            if event_format == "array":
                self.as_maps(f)
            prompts, hits, removed = [], 0, 0
            for _ in range(150):
                like = rng.choice(prompts[-4:]) if prompts and rng.random() < .8 else []
                prompt = like[:rng.randrange(min(len(like), 140) + 1)] + mica.random_ids(rng, rng.randrange(1, 60))
                adapter = rng.choice([None, None, "alora-all", "lora-all"])
                if adapter == "alora-all" and rng.random() < .7:
                    prompt += INVOCATION
                before = len(f.mirror.blocks)
                answer, cached, activation = ask(server, prompt, adapter, rng.randrange(1, 24))
                known = f.mirror.prefix(prompt[:-1], adapter, activation)
                self.assertLessEqual(known, cached)
                self.assertLess(cached, known + BLOCK)
                hits += known > 0
                rows = (prompt + answer)[:-1]
                f.catch_up(lambda mirror: mirror.prefix(rows, adapter, activation) == len(rows) // BLOCK * BLOCK)
                self.assertLessEqual(len(f.mirror.blocks), 24)
                removed += len(f.mirror.blocks) < before + len(rows) // BLOCK - known // BLOCK
                prompts.append(prompt)
            self.assertGreater(hits, 40)
            self.assertGreater(removed, 40)

    def as_maps(self, f):
        plain = f.mirror.apply

        def apply(event):
            names = {"BlockStored": STORED, "BlockRemoved": REMOVED, "AllBlocksCleared": ("type",)}[event[0]]
            self.assertEqual(len(event), len(names))
            plain(dict(zip(names, event)))
        f.mirror.apply = apply

    def test_a_router_knows_what_is_cached(self):
        self.check("map")

    def test_as_arrays_too(self):
        self.check("array")


class Bounds(unittest.TestCase):
    def test_the_last_batches_are_kept_for_replay(self):
        rng = random.Random(6)
        with serve.Server(GRANITE, flags(buffer_steps=2)) as server, Follower(server) as f:
            for i in range(4):
                ask(server, mica.random_ids(rng, BLOCK + 1), generate=1)
            until = time.monotonic() + PATIENCE_S
            while [number for number, _ in f.replay()] != [3, 4]:
                self.assertLess(time.monotonic(), until)

    def test_without_a_replay_endpoint_there_is_only_what_is_published(self):
        with serve.Server(GRANITE, flags(replay_endpoint=None)) as server, Follower(server) as f:
            self.assertEqual(f.source.replay_endpoint, "")
            rng, until = random.Random(7), time.monotonic() + PATIENCE_S
            f.sub.setsockopt(zmq.RCVTIMEO, 200)
            while True:
                ask(server, mica.random_ids(rng, BLOCK + 1), generate=1)
                try:
                    self.assertEqual(f.receive()[0], b"")
                    break
                except zmq.Again:
                    self.assertLess(time.monotonic(), until)

    def test_a_subscriber_that_does_not_read_holds_up_nobody(self):
        rng = random.Random(8)
        with serve.Server(GRANITE, flags(hwm=2, max_queue_size=2, buffer_steps=0)) as server, Follower(server) as f:
            f.sub.setsockopt(zmq.RCVHWM, 1)
            for _ in range(30):
                ask(server, mica.random_ids(rng, 100), generate=1)
            self.assertEqual(f.replay(), [])

    def test_a_publisher_connects_to_a_router_that_listens(self):
        # Any address but loopback's is connected to, as vLLM does; 0.0.0.0 is this machine, too.
        context = zmq.Context()
        sub = context.socket(zmq.SUB)
        sub.setsockopt(zmq.SUBSCRIBE, b"")
        sub.setsockopt(zmq.RCVTIMEO, 200)
        port = sub.bind_to_random_port("tcp://127.0.0.1")
        rng, until = random.Random(9), time.monotonic() + PATIENCE_S
        with serve.Server(GRANITE, flags(endpoint=f"tcp://0.0.0.0:{port}", replay_endpoint=None)) as server:
            while True:
                ask(server, mica.random_ids(rng, BLOCK + 1), generate=1)
                try:
                    self.assertEqual(len(sub.recv_multipart()), 3)
                    break
                except zmq.Again:
                    self.assertLess(time.monotonic(), until)
        context.destroy(linger=0)


class Off(unittest.TestCase):
    def test_nothing_listens_unless_it_is_asked_for(self):
        for config in ({"enable_kv_cache_events": False}, {"publisher": "null"}):
            with serve.Server(GRANITE, flags(**config)) as server:
                self.assertFalse(server.control.GetKvEventSources(control.GetKvEventSourcesRequest()).sources)

    def test_a_tenant_is_not_told_where_events_are(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(serve.tenants_text(serve.tenant("acme")))
            file.flush()
            with serve.Server(GRANITE, flags() + ["--tenants", file.name]) as server:
                for who, count in (("root", 1), ("acme", 0)):
                    answer = server.control.GetKvEventSources(control.GetKvEventSourcesRequest(),
                                                              metadata=serve.bearer(f"{who}-key"))
                    self.assertEqual(len(answer.sources), count)
                serve.refused(self, lambda: server.control.GetKvEventSources(control.GetKvEventSourcesRequest()),
                              grpc.StatusCode.UNAUTHENTICATED)


class Refused(unittest.TestCase):
    def start(self, *more):
        done = subprocess.run([str(mica.build_dir() / "mica"), "serve", str(GRANITE), "--grpc-port", "0", "--port", "0",
                               *more], capture_output=True, text=True, timeout=mica.TIMEOUT_S)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_each_field_in_one_line(self):
        for field, value, said in (
                ("enable_kv_cache_events", "yes", 'enable_kv_cache_events must be true or false, got "yes"'),
                ("publisher", "nats", 'publisher must be "zmq" or "null", got "nats"'),
                ("endpoint", "http://x:1", 'endpoint must be tcp://HOST:PORT or ipc://PATH, got "http://x:1"'),
                ("replay_endpoint", 5558, "replay_endpoint must be tcp://HOST:PORT or ipc://PATH, got 5558"),
                ("buffer_steps", -1, "buffer_steps must be a whole number from 0 to 1000000, got -1"),
                ("hwm", 0, "hwm must be a whole number from 1 to 1000000, got 0"),
                ("max_queue_size", 1e9, "max_queue_size must be a whole number from 1 to 1000000, got 1e9"),
                ("topic", 1, "topic must be a string of at most 255 plain bytes, got 1"),
                ("event_format", "csv", 'event_format must be "map" or "array", got "csv"'),
                ("events", 1, "'events' is no known key")):
            with self.subTest(field=field):
                self.assertEqual(self.start(*flags(**{field: value})), f"mica serve: --kv-events-config: {said}\n")
        self.assertRegex(self.start("--kv-events-config", "{"), r"^mica serve: --kv-events-config: .*\n$")
        self.assertEqual(self.start(*flags(), "--no-enable-prefix-caching"),
                         "mica serve: --kv-events-config needs prefix caching, which is turned off\n")

    def test_an_endpoint_that_cannot_be_had(self):
        context = zmq.Context()
        taken = context.socket(zmq.PUB)
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        for field in ("endpoint", "replay_endpoint"):
            said = self.start(*flags(**{field: f"tcp://127.0.0.1:{port}"})).splitlines()[-1]
            self.assertEqual(said, f"mica serve: --kv-events-config: {field} 'tcp://127.0.0.1:{port}' cannot be bound: "
                                   "Address already in use")
        context.destroy(linger=0)


if __name__ == "__main__":
    unittest.main()
