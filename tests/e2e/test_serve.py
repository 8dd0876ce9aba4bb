"""`mica serve` by stock gRPC clients: same answers as run-batch, and all that can end a call."""
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import mica
import random_model
import serve
from serve import control, grpc, health, inference

Code = grpc.StatusCode
GRANITE = mica.GOLDEN / "granite"
WAIT_S = 60


def random_bodies(rng, count, vocab, adapters):
    bodies = []
    for _ in range(count):
        body = {"prompt": mica.random_ids(rng, rng.randint(1, 60), vocab - 1, 3), "max_tokens": rng.randint(1, 24),
                "temperature": rng.choice((0.0, 0.0, 0.7, 1.3)), "logprobs": rng.choice((0, 3)),
                "ignore_eos": rng.random() < 0.5, "model": rng.choice((mica.BASE, *adapters))}
        if rng.random() < 0.3:
            body.update(seed=rng.randrange(1 << 40), top_k=rng.choice((1, 5, 40)), min_p=0.05)
        if rng.random() < 0.3:
            body.update(presence_penalty=0.5, repetition_penalty=1.2, logit_bias={"7": 2.0, "11": -3.5})
        if rng.random() < 0.2:
            body["stop_token_ids"] = mica.random_ids(rng, 8, vocab - 1, 3)
        bodies.append(body)
    return bodies


def long_request(tokens=400, request_id="", **more):
    r = inference.GenerateRequest(request_id=request_id, **more)
    if r.WhichOneof("prompt") is None:
        r.token_ids.ids.extend(range(10, 40))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    return r


def wait_until(holds):
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def bits(values):
    """Of float32s, which run-batch prints so that they read back exactly; its -9999.0 is -inf."""
    return [struct.pack("<f", float("-inf") if x == -9999.0 else x).hex() for x in values]


class SameAnswers(unittest.TestCase):
    """A random model with random adapters, served and in a batch."""

    @classmethod
    def setUpClass(cls):
        rng = mica.seeded("serve", 1)
        cls.folder = tempfile.TemporaryDirectory()
        root = pathlib.Path(cls.folder.name)
        config = random_model.random_config(rng)
        (root / "model").mkdir()
        (root / "model/config.json").write_text(json.dumps(config))
        cls.adapters = {}
        for i in range(5):
            random_model.write_adapter(rng, root / f"a{i}", config)
            cls.adapters[f"a{i}"] = root / f"a{i}"
        cls.bodies = random_bodies(rng, 256, config["vocab_size"], cls.adapters)
        cls.flags = ["--load-format", "dummy", "--max-loras", 2, "--threads", 2, "--kv-cache-memory-bytes", "64M"]
        cls.model = root / "model"
        cls.expected = mica.run([{**b, "return_token_ids": True} for b in cls.bodies], cls.model, cls.flags,
                                cls.adapters)
        cls.server = serve.Server(cls.model, cls.flags, cls.adapters)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        cls.folder.cleanup()
        assert status == 0, status

    def check(self, index, answer):
        body, choice = self.bodies[index], self.expected[index]["choices"][0]
        self.assertEqual(answer.ids, choice["token_ids"], body)
        self.assertEqual(bits(answer.logprobs), bits(choice["logprobs"]["token_logprobs"]), body)
        self.assertEqual(serve.reasons()[answer.finish.finish_reason], choice["finish_reason"])
        self.assertEqual(answer.finish.num_output_tokens, len(answer.ids))
        self.assertEqual(answer.tokens, len(answer.ids))
        self.assertEqual(answer.prompt.num_prompt_tokens, len(body["prompt"]))
        if choice["finish_reason"] == "stop":
            reason = answer.finish.WhichOneof("stop_reason")
            self.assertEqual(getattr(answer.finish, reason), answer.ids[-1])
            self.assertEqual(reason, "stop_token_id" if choice["stop_reason"] is not None else "eos_token_id")
        self.assertEqual([len(c) for c in answer.candidates], [body["logprobs"]] * len(answer.ids)
                         if body["logprobs"] else [])

    def serve_all(self, indexes, at_a_time):
        for i in range(0, len(indexes), at_a_time):
            part = indexes[i:i + at_a_time]
            calls = [self.server.inference.GenerateStream(serve.request_of(self.bodies[k], str(k))) for k in part]
            for k, call in zip(part, calls):
                self.check(k, serve.Answer(call))
                expected = self.expected[k]["adapter"]
                activation = expected and expected["activation"]
                told = serve.trailers(call)
                self.assertEqual(told["mica-activation"], "none" if activation is None else str(activation))
                self.assertIn("mica-cached-tokens", told)

    def test_one_stream_at_a_time_gives_the_bits_of_run_batch(self):
        self.serve_all(list(range(48)), 1)

    def test_16_streams_at_a_time_give_the_bits_of_run_batch(self):
        self.serve_all(list(range(128)), 16)

    def test_256_streams_at_a_time_give_the_bits_of_run_batch(self):
        self.serve_all(random.Random(3).sample(range(256), 256), 256)

    def test_single_answers_and_older_names_give_the_bits_of_run_batch(self):
        old = self.server.channel.unary_unary("/vllm.Generate/Generate",
                                              request_serializer=inference.GenerateRequest.SerializeToString,
                                              response_deserializer=inference.GenerateResponse.FromString)
        for k in range(20):
            request = serve.request_of(self.bodies[k], str(k))
            self.check(k, serve.Answer([self.server.inference.Generate(request)]))
            self.check(k, serve.Answer([old(request)]))


class OneServer(unittest.TestCase):
    """What one server answers to calls that don't hurt each other."""

    @classmethod
    def setUpClass(cls):
        cls.server = serve.Server(GRANITE, ["--num-gpu-blocks-override", 80, "--max-num-seqs", 4],
                                  mica.adapters_of(GRANITE))

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        assert status == 0, status

    def generate(self, **fields):
        r = inference.GenerateRequest(text="hello world")
        r.stopping.max_new_tokens = 4
        r.MergeFrom(inference.GenerateRequest(**fields))
        return self.server.inference.Generate(r)

    def refused(self, code, said, **fields):
        serve.refused(self, lambda: self.generate(**fields), code, said)

    def assert_room(self):
        """Requests that need all K/V blocks at once are served: nothing holds any."""
        calls = [self.server.inference.GenerateStream(long_request(280)) for _ in range(4)]
        for call in calls:
            self.assertEqual(serve.Answer(call).finish.num_output_tokens, 280)

    def test_text_and_its_facts_are_those_of_run_batch(self):
        body = {"prompt": "hello world", "max_tokens": 6, "temperature": 0, "logprobs": 2, "prompt_logprobs": 2,
                "return_token_ids": True}
        expected = mica.run([body], GRANITE)[0]["choices"][0]
        r = serve.request_of(body)
        r.response.prompt_token_ids = r.response.prompt_logprobs = True
        r.response.prompt_candidates.top_n = 2
        call = self.server.inference.GenerateStream(r)
        answer = serve.Answer(call)
        self.assertEqual(answer.text, expected["text"])
        self.assertEqual(list(answer.prompt.token_ids), expected["prompt_token_ids"])
        self.assertEqual((answer.prompt.logprobs[0], answer.prompt.ranks[0]), (0, 0))
        for i, entry in enumerate(expected["prompt_logprobs"][1:], 1):
            token = str(answer.prompt.token_ids[i])
            self.assertEqual(answer.prompt.ranks[i], entry[token]["rank"])
            self.assertEqual(bits([answer.prompt.logprobs[i]]), bits([entry[token]["logprob"]]))
            for c in answer.prompt.candidate_tokens[i].tokens:
                self.assertEqual(c.rank, entry[str(c.id)]["rank"])
                self.assertEqual(bits([c.logprob]), bits([entry[str(c.id)]["logprob"]]))
        self.assertEqual(bits(c[0][1] for c in answer.candidates),
                         bits(max(t.values()) for t in expected["logprobs"]["top_logprobs"]))
        self.assertEqual(answer.ranks, [1] * 6)
        self.assertEqual(serve.trailers(call)["mica-cached-tokens"], "0")

    def test_defaults_are_greedy_and_all_that_fits(self):
        r = inference.GenerateRequest(text="hello")
        r.stopping.ignore_eos = True
        first, second = self.server.inference.Generate(r), self.server.inference.Generate(r)
        self.assertEqual(first.outputs, second.outputs)
        self.assertEqual(first.prompt_info.num_prompt_tokens + first.outputs.finish_info.num_output_tokens, 512)
        self.assertFalse(first.outputs.token_ids)

    def test_only_what_is_asked_for_comes(self):
        answer = self.generate(response={"output_text": False}).outputs
        self.assertEqual((answer.text, len(answer.token_ids), len(answer.logprobs), answer.num_tokens), ("", 0, 0, 4))

    def test_stop_strings_end_the_text(self):
        text = self.generate(stopping={"max_new_tokens": 8, "ignore_eos": True}).outputs.text
        stop = text[2:4]
        answer = self.generate(stopping={"max_new_tokens": 8, "stop_strings": [stop]}).outputs
        self.assertEqual(answer.text, text[:text.index(stop)])
        self.assertEqual(answer.finish_info.stop_string, stop)
        answer = self.generate(stopping={"max_new_tokens": 8, "stop_strings": [stop],
                                         "include_stop_strings": True}).outputs
        self.assertEqual(answer.text, text[:text.index(stop)] + stop)

    def test_the_cache_is_shared_and_salts_and_bypass_keep_apart(self):
        ids = list(range(50, 90))

        def cached(**kv):
            r = inference.GenerateRequest(kv=kv)
            r.token_ids.ids.extend(ids)
            r.stopping.max_new_tokens = 1
            return int(serve.trailers(self.server.inference.Generate.with_call(r)[1])["mica-cached-tokens"])
        self.assertEqual([cached(), cached(), cached(cache_salt="x"), cached(cache_salt="x")], [0, 39, 0, 39])
        self.assertEqual([cached(bypass_prefix_cache=True), cached(bypass_prefix_cache=True), cached()], [0, 0, 39])

    def test_truncation_keeps_the_last_tokens_even_of_a_prompt_beyond_the_model(self):
        long = "hello world " * 2000
        answer = self.generate(text=long, truncate_prompt_tokens=7, response={"prompt_token_ids": True})
        whole = self.generate(text="hello world " * 20, response={"prompt_token_ids": True})
        self.assertEqual(list(answer.prompt_info.token_ids), list(whole.prompt_info.token_ids)[-7:])
        self.refused(Code.INVALID_ARGUMENT, "prompt", text=long)

    def test_an_adapter_is_named_and_found(self):
        call = self.server.inference.GenerateStream(long_request(4, lora_name="lora-all"))
        self.assertNotEqual(serve.Answer(call).ids, serve.Answer(
            self.server.inference.GenerateStream(long_request(4))).ids)
        self.assertEqual(serve.trailers(call)["mica-activation"], "0")
        self.refused(Code.NOT_FOUND, "lora_name", lora_name="nobody")
        self.refused(Code.NOT_FOUND, "lora_name", lora_name=mica.BASE)
        self.refused(Code.NOT_FOUND, "model", model="another")
        self.assertEqual(self.generate(model=mica.BASE).outputs.num_tokens, 4)

    def test_fields_that_are_wrong_are_refused_by_name(self):
        for name, fields in (
                ("stopping.max_new_tokens", {"stopping": {"max_new_tokens": 600}}),
                ("stopping.min_new_tokens", {"stopping": {"min_new_tokens": 5}}),
                ("temperature", {"temperature": -1.0}), ("sampling.top_p", {"sampling": {"top_p": 1.5}}),
                ("sampling.num_sequences", {"sampling": {"num_sequences": 2}}),
                ("media", {"media": [{}]}), ("decoding.structured_output", {"decoding": {"regex": "a"}}),
                ("kv.kv_transfer_params", {"kv": {"kv_transfer_params": {}}}),
                ("stopping.stop_strings", {"stopping": {"stop_strings": [""]}})):
            with self.subTest(name):
                self.refused(Code.INVALID_ARGUMENT, name, **fields)
        serve.refused(self, lambda: self.server.inference.Generate(inference.GenerateRequest()),
                      Code.INVALID_ARGUMENT, "prompt is missing")

    def test_bytes_that_are_no_message_are_refused(self):
        rng = mica.seeded("garbage")
        for path in ("/vllm.Inference/Generate", "/vllm.Control/Abort", "/vllm.Control/LoadLora",
                     "/grpc.health.v1.Health/Check"):
            call = self.server.channel.unary_unary(path)
            for _ in range(30):
                with self.assertRaises(grpc.RpcError) as caught:
                    call(b"\x0a\xff" + rng.randbytes(rng.randint(0, 60)))
                self.assertIn(caught.exception.code(), (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION))

    def test_unknown_methods_are_unimplemented(self):
        for path in ("/vllm.Control/Sleep", "/vllm.Control/Shutdown", "/no.Such/Thing", "/vllm.Inference/generate"):
            serve.refused(self, lambda p=path: self.server.channel.unary_unary(p)(b""), Code.UNIMPLEMENTED)

    def test_a_message_over_the_limit_is_refused(self):
        r = inference.GenerateRequest(text="a" * (5 << 20))
        serve.refused(self, lambda: self.server.inference.Generate(r), Code.RESOURCE_EXHAUSTED)
        self.assertEqual(self.generate().outputs.num_tokens, 4)

    def test_health_is_known_of_every_service(self):
        for name in ("", "vllm.Inference", "vllm.Control"):
            answer = self.server.health.Check(health.HealthCheckRequest(service=name))
            self.assertEqual(answer.status, health.HealthCheckResponse.SERVING)
        serve.refused(self, lambda: self.server.health.Check(health.HealthCheckRequest(service="x")), Code.NOT_FOUND)
        watch = self.server.health.Watch(health.HealthCheckRequest(service="x"))
        self.assertEqual(next(watch).status, health.HealthCheckResponse.SERVICE_UNKNOWN)
        watch.cancel()

    def test_adapters_stay_as_they_are_without_a_root(self):
        for call in (lambda: self.server.control.LoadLora(control.LoadLoraRequest(lora_name="x", source_path="y")),
                     lambda: self.server.control.UnloadLora(control.UnloadLoraRequest(lora_name="lora-all"))):
            serve.refused(self, call, Code.FAILED_PRECONDITION, "--lora-root")
        names = [a.lora_name for a in self.server.control.ListLoras(control.ListLorasRequest()).adapters]
        self.assertEqual(names, sorted(mica.adapters_of(GRANITE)))

    def test_the_server_says_what_it_is(self):
        info = self.server.control.GetServerInfo(control.GetServerInfoRequest())
        self.assertEqual((info.api_version, info.max_model_len, info.kv_block_size, info.total_kv_blocks),
                         ("vllm", 512, 16, 80))
        self.assertEqual((info.max_running_requests, info.max_loras), (4, 8))
        model = self.server.control.GetModelInfo(control.GetModelInfoRequest())
        self.assertEqual((model.model_id, model.supports_text_input, model.supports_lora), (mica.BASE, True, True))
        sources = self.server.control.GetKvEventSources(control.GetKvEventSourcesRequest()).sources
        self.assertFalse(sources)

    def test_a_cancelled_stream_frees_its_blocks(self):
        for i in range(12):
            call = self.server.inference.GenerateStream(long_request(480))
            for _ in range(i % 4):
                next(call, None)   # three messages can be all of it: what a slow reader left waits in one
            call.cancel()
        self.assert_room()

    def test_a_deadline_frees_its_blocks(self):
        late = 0
        for i in range(8):   # at most 4 ms; where this machine stands still an answer may be there first
            try:
                self.server.inference.Generate(long_request(480), timeout=0.0005 * (i + 1))
            except grpc.RpcError as e:
                self.assertEqual(e.code(), Code.DEADLINE_EXCEEDED)
                late += 1
        self.assertGreater(late, 4)
        self.assert_room()

    def disappear(self, clients):
        for i in range(clients):
            channel = self.server.connect()
            stub = serve.inference_grpc.InferenceStub(channel)
            calls = [stub.GenerateStream(long_request(480)) for _ in range(3)]
            for call in calls[:i % 3]:
                next(call)
            channel.close()
        self.assert_room()

    def test_a_client_that_disappears_frees_its_blocks_and_files(self):
        self.disappear(4)  # gRPC makes descriptors of its own as it needs them, and keeps them
        time.sleep(1)
        before = serve.open_files(self.server.process)
        self.disappear(16)
        wait_until(lambda: serve.open_files(self.server.process) <= before + 2)  # fewer than one for each

    def test_abort_ends_requests_by_name(self):
        calls = [self.server.inference.GenerateStream(long_request(480, request_id=name)) for name in "abb"]
        for call in calls:
            next(call)
        self.server.control.Abort(control.AbortRequest(request_ids=["b", "unknown"]))
        answers = [serve.Answer(call) for call in calls]
        self.assertEqual([serve.reasons()[a.finish.finish_reason] for a in answers], ["length", "abort", "abort"])
        self.assertTrue(all(a.finish.num_output_tokens == len(a.ids) < 480 for a in answers[1:]))
        self.assert_room()

    def test_a_slow_reader_gets_all_in_fewer_messages(self):
        slow = self.server.inference.GenerateStream(long_request(480))
        next(slow)
        time.sleep(0.3)
        self.assertEqual(self.generate().outputs.num_tokens, 4)
        self.assertEqual(len(serve.Answer(slow).ids), 480)


class Adapters(unittest.TestCase):
    """Loading at run time, from below one directory."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name) / "root"
        cls.root.mkdir()
        source = GRANITE / "adapters"
        for name in ("lora-all", "alora-all"):
            (cls.root / name).mkdir()
            for file in (source / name).iterdir():
                (cls.root / name / file.name).write_bytes(file.read_bytes())
        (cls.root / "inside").symlink_to(cls.root / "lora-all")
        (cls.root / "outside").symlink_to(source / "lora-all")
        (cls.root / "half").mkdir()
        (cls.root / "half/adapter_config.json").symlink_to(source / "lora-all/adapter_config.json")
        (cls.root / "half/adapter_model.safetensors").symlink_to(cls.root / "lora-all/adapter_model.safetensors")
        (cls.root / "broken").mkdir()
        (cls.root / "broken/adapter_config.json").write_text("{}")
        (cls.root / "broken/adapter_model.safetensors").write_text("")
        cls.server = serve.Server(GRANITE, ["--lora-root", cls.root, "--kv-cache-memory-bytes", "16M"])

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        cls.folder.cleanup()
        assert status == 0, status

    def load(self, name, path):
        return self.server.control.LoadLora(control.LoadLoraRequest(lora_name=name, source_path=str(path))).adapter

    def unload(self, name):
        return self.server.control.UnloadLora(control.UnloadLoraRequest(lora_name=name)).adapter

    def names(self):
        return [a.lora_name for a in self.server.control.ListLoras(control.ListLorasRequest()).adapters]

    def ids(self, lora_name):
        return serve.Answer(self.server.inference.GenerateStream(long_request(6, lora_name=lora_name))).ids

    def test_an_adapter_comes_and_goes(self):
        first = self.load("one", "lora-all")
        self.assertEqual((first.lora_name, first.source_path), ("one", str(self.root / "lora-all")))
        self.load("two", self.root / "inside")
        self.assertEqual(self.names(), ["one", "two"])
        self.assertEqual(self.ids("one"), self.ids("two"))
        self.assertNotEqual(self.ids("one"), self.ids(""))
        serve.refused(self, lambda: self.load("one", "alora-all"), Code.ALREADY_EXISTS)
        serve.refused(self, lambda: self.load(mica.BASE, "alora-all"), Code.ALREADY_EXISTS)
        self.assertEqual(self.unload("one").lora_id, first.lora_id)
        serve.refused(self, lambda: self.ids("one"), Code.NOT_FOUND)
        serve.refused(self, lambda: self.unload("one"), Code.NOT_FOUND)
        self.assertGreater(self.load("one", "lora-all").lora_id, first.lora_id)
        self.unload("one")
        self.unload("two")
        self.assertEqual(self.names(), [])

    def test_nothing_outside_the_root_is_read(self):
        outside = GRANITE / "adapters/lora-all"
        for path in (outside, "../" + os.path.relpath(outside, self.root.parent), "outside", "half", "lora-all/../..",
                     "", ".", "/", str(self.root), "nothing", "/etc", "inside/../../root/../.."):
            with self.subTest(path=str(path)):
                serve.refused(self, lambda p=path: self.load("x", p), Code.INVALID_ARGUMENT, "source_path")
        self.assertNotIn("x", self.names())

    def test_a_bad_adapter_or_name_leaves_no_trace(self):
        serve.refused(self, lambda: self.load("x", "broken"), Code.INVALID_ARGUMENT)
        for name in ("", "a\nb", "n" * 300):
            serve.refused(self, lambda n=name: self.load(n, "lora-all"), Code.INVALID_ARGUMENT)
        self.assertNotIn("x", self.names())

    def test_an_adapter_that_is_in_use_goes_when_its_requests_are_over(self):
        self.load("used", "lora-all")
        expected = serve.Answer(self.server.inference.GenerateStream(long_request(400, lora_name="used"))).ids
        running = self.server.inference.GenerateStream(long_request(400, lora_name="used"))
        next(running)
        self.unload("used")
        serve.refused(self, lambda: self.ids("used"), Code.NOT_FOUND)
        self.assertEqual(serve.Answer(running).ids, expected)

    def test_adapters_are_loaded_and_used_from_many_clients_at_once(self):
        failures = []

        def work(k):
            try:
                for _ in range(3):
                    self.load(f"c{k}", "lora-all" if k % 2 else "alora-all")
                    self.ids(f"c{k}")
                    self.unload(f"c{k}")
            except grpc.RpcError as e:
                failures.append(e.details())
        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failures, [])


class Ending(unittest.TestCase):
    """SIGTERM, and servers that can't start."""

    def test_sigterm_lets_answers_end_and_says_so(self):
        server = serve.Server(GRANITE)
        watch = server.health.Watch(health.HealthCheckRequest())
        self.assertEqual(next(watch).status, health.HealthCheckResponse.SERVING)
        calls = [server.inference.GenerateStream(long_request(480)) for _ in range(4)]
        for call in calls:
            next(call)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(next(watch).status, health.HealthCheckResponse.NOT_SERVING)
        for call in calls:
            self.assertEqual(serve.Answer(call).finish.num_output_tokens, 480)
        self.assertEqual(server.process.wait(WAIT_S), 0, server.said())
        serve.refused(self, lambda: next(watch), Code.UNAVAILABLE)
        serve.refused(self, lambda: server.inference.Generate(long_request(1)), Code.UNAVAILABLE)
        server.stop()

    def test_what_outlasts_the_drain_is_cut_off(self):
        with serve.Server(GRANITE, ["--drain-seconds", 0, "--max-num-seqs", 1]) as server:
            calls = [server.inference.GenerateStream(long_request(480))]
            next(calls[0])
            calls += [server.inference.GenerateStream(long_request(480)) for _ in range(60)]   # a second's work
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(WAIT_S), 0, server.said())
            with self.assertRaises(grpc.RpcError) as caught:
                list(calls[-1])
            # gRPC resets a stream that it has not handed over yet.
            self.assertIn(caught.exception.code(), (Code.UNAVAILABLE, Code.CANCELLED))

    def test_a_root_that_is_no_directory_stops_the_start(self):
        for root in ("/nowhere", GRANITE / "config.json", ""):
            done = subprocess.run([mica.build_dir() / "mica", "serve", GRANITE, "--lora-root", root],
                                  capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr),
                             (1, f"mica serve: --lora-root '{root}': expected a directory\n"))

    def test_a_port_is_not_shared(self):
        with serve.Server(GRANITE) as server:
            port = server.address.rsplit(":", 1)[1]
            with self.assertRaises(AssertionError) as caught:
                serve.Server(GRANITE, ["--grpc-port", port])
            self.assertIn("cannot listen on", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
