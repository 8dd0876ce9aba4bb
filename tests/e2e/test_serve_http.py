"""`mica serve` over HTTP: what Prometheus, load balancers and people read."""
import http.client
import re
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

import mica
import serve
from serve import inference

GRANITE = mica.GOLDEN / "granite"
SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')


def get(server, path, method="GET"):
    """-> status, headers, body"""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def samples(server):
    """-> {name with labels but model_name and engine: value}"""
    found = {}
    for line in get(server, "/metrics")[2].splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = SAMPLE.match(line).groups()
        kept = [x for x in re.findall(r'(\w+="(?:[^"\\]|\\.)*")', labels or "")
                if not x.startswith(("model_name=", "engine="))]
        found[name + ("{" + ",".join(kept) + "}" if kept else "")] = float(value)
    return found


def generate(server, tokens, prompt=range(10, 40), **fields):
    r = inference.GenerateRequest(**fields)
    r.token_ids.ids.extend(prompt)
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    return list(server.inference.GenerateStream(r))


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = serve.Server(GRANITE, ["--max-model-len", "512"])

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_health_and_version(self):
        status, _, body = get(self.server, "/health")
        self.assertEqual((status, body), (200, ""))
        status, headers, body = get(self.server, "/version")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertRegex(body, r'^\{"version":"[0-9.]+"\}\n$')

    def test_other_paths_and_methods_are_refused(self):
        for path in ("/", "/metrics/", "/v1/completions", "/%2e%2e/etc/passwd", "/" + "x" * 2000):
            self.assertEqual(get(self.server, path)[0], 404, path)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            status, headers, _ = get(self.server, "/metrics", method)
            self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"), method)
        status, headers, body = get(self.server, "/metrics", "HEAD")
        self.assertEqual((status, body), (200, ""))
        self.assertGreater(int(headers["Content-Length"]), 1000)

    def grown_by_two_requests(self):
        before = samples(self.server)
        generate(self.server, 7)
        generate(self.server, 1)
        after = samples(self.server)
        return {name: after[name] - before.get(name, 0) for name in after}, after

    def test_what_ran_is_counted(self):
        for _ in range(50):  # a tiny model may be done before its first token is taken: then there is no gap
            grown, after = self.grown_by_two_requests()
            if grown["vllm:inter_token_latency_seconds_count"]:
                break
        self.assertEqual(grown["vllm:prompt_tokens_total"], 60)
        self.assertEqual(grown["vllm:generation_tokens_total"], 8)
        self.assertEqual(grown['vllm:request_success_total{finished_reason="length"}'], 2)
        self.assertEqual(grown['vllm:request_success_total{finished_reason="stop"}'], 0)
        self.assertEqual(grown["vllm:prefix_cache_queries_total"], 60)
        self.assertEqual(grown["vllm:time_to_first_token_seconds_count"], 2)
        self.assertGreaterEqual(grown["vllm:inter_token_latency_seconds_count"], 1)
        self.assertLessEqual(grown["vllm:inter_token_latency_seconds_count"], 6)
        self.assertEqual(grown["vllm:request_prompt_tokens_sum"], 60)
        self.assertEqual(grown["vllm:request_generation_tokens_sum"], 8)
        self.assertEqual(grown['vllm:request_generation_tokens_bucket{le="1"}'], 1)
        self.assertEqual(grown['vllm:request_generation_tokens_bucket{le="+Inf"}'], 2)
        self.assertEqual(grown["vllm:e2e_request_latency_seconds_count"], 2)
        self.assertGreaterEqual(grown["vllm:e2e_request_latency_seconds_sum"],
                                grown["vllm:request_queue_time_seconds_sum"])
        self.assertEqual(after["vllm:num_requests_running"], 0)

    def test_running_and_waiting_are_seen(self):
        calls = []
        for i in range(3):
            r = inference.GenerateRequest(request_id=f"run-{i}")
            r.token_ids.ids.extend(range(10 + i, 40))
            r.stopping.max_new_tokens = 400
            r.stopping.ignore_eos = True
            calls.append(self.server.inference.GenerateStream(r))
        until = time.monotonic() + 30
        while samples(self.server)["vllm:num_requests_running"] == 0:
            self.assertLess(time.monotonic(), until)
        for call in calls:
            call.cancel()
        while samples(self.server)["vllm:num_requests_running"] or samples(self.server)["vllm:kv_cache_usage_perc"]:
            self.assertLess(time.monotonic(), until)
        self.assertGreaterEqual(samples(self.server)['vllm:request_success_total{finished_reason="abort"}'], 1)

    def test_promtool_finds_only_the_colons_of_vllms_names(self):
        page = get(self.server, "/metrics")[2]
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True,
                              check=False)
        lines = [x for x in (done.stdout + done.stderr).splitlines()
                 if not x.endswith("metric names should not contain ':'")]
        self.assertEqual(lines, [])
        self.assertIn(done.returncode, (0, 3))

    def test_prometheus_scrapes_it(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            at = f"127.0.0.1:{free.getsockname()[1]}"
            free.close()
            config = f"{folder}/prometheus.yml"
            with open(config, "w", encoding="utf-8") as f:
                f.write("scrape_configs:\n- job_name: mica\n  scrape_interval: 1s\n"
                        f"  static_configs: [{{targets: ['{self.server.http}']}}]\n")
            with subprocess.Popen(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                                   f"--web.listen-address={at}"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as prometheus:
                try:
                    self.wait_for_series(at)
                finally:
                    prometheus.terminate()

    def wait_for_series(self, at):
        until = time.monotonic() + 60
        while True:
            self.assertLess(time.monotonic(), until, "Prometheus has no series")
            try:
                with urllib.request.urlopen(f"http://{at}/api/v1/query?query=vllm:kv_cache_usage_perc") as answer:
                    if '"model_name":"' + mica.BASE in answer.read().decode():
                        return
            except OSError:
                pass
            time.sleep(0.2)

    def test_slow_and_rude_clients_hold_nobody_up(self):
        host, port = self.server.http.split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(40)]
        for s in held:
            s.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        self.assertEqual(get(self.server, "/health")[0], 200)
        with socket.create_connection((host, int(port))) as s:
            s.settimeout(30)
            try:
                s.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X-Long: " + b"y" * 100000 + b"\r\n\r\n")
                first = s.recv(64)
            except ConnectionError:
                first = b""
            self.assertNotIn(b" 200 ", first)
        with socket.create_connection((host, int(port))) as s:
            s.sendall(b"\x00\xff garbage\r\n\r\n")
        self.assertEqual(get(self.server, "/metrics")[0], 200)
        for s in held:
            s.close()


class Adapters(unittest.TestCase):
    named = {name: GRANITE / "adapters" / name for name in ("lora-all", "lora-qkv", "lora-o")}

    def resident(self, server):
        rows = [x for x in samples(server) if x.startswith("vllm:lora_requests_info")]
        self.assertEqual(len(rows), 1)
        self.assertIn('max_lora="2"', rows[0])
        return re.search(r'running_lora_adapters="([^"]*)"', rows[0]).group(1).split(",")

    def test_residency_is_one_true_series(self):
        with serve.Server(GRANITE, ["--max-loras", "2"], adapters=self.named) as server:
            for name in self.named:
                generate(server, 2, lora_name=name)
                resident = self.resident(server)
                self.assertIn(name, resident)
                self.assertLessEqual(len(resident), 2)

    def test_a_pinned_one_stays_whatever_others_ask_for(self):
        with serve.Server(GRANITE, ["--max-loras", "2", "--lora-pin", "lora-all"], adapters=self.named) as server:
            for name in ("lora-qkv", "lora-o") * 3:
                generate(server, 2, lora_name=name)
                self.assertEqual(sorted(self.resident(server)), sorted(("lora-all", name)))

    def test_a_pin_that_cannot_be_is_refused_in_one_line(self):
        for pins, said in ((["other"], "--lora-pin 'other': expected a name of --lora-modules"),
                           (["lora-all", "lora-o"], "--lora-pin must leave one of --max-loras slots for others")):
            done = subprocess.run([mica.build_dir() / "mica", "serve", GRANITE, "--max-loras", "2", "--lora-modules",
                                   *(f"{n}={p}" for n, p in self.named.items()), "--lora-pin", *pins],
                                  capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (1, f"mica serve: {said}\n"))


class Drain(unittest.TestCase):
    def test_health_says_503_while_it_drains(self):
        server = serve.Server(GRANITE, ["--drain-seconds", "60"])
        r = inference.GenerateRequest()
        r.token_ids.ids.extend(range(10, 40))
        r.stopping.max_new_tokens = 400
        r.stopping.ignore_eos = True
        calls = [server.inference.GenerateStream(r) for _ in range(8)]
        next(iter(calls[0]))
        self.assertEqual(get(server, "/health")[0], 200)
        server.process.terminate()
        seen = set()
        while server.process.poll() is None:
            try:
                seen.add(get(server, "/health")[0])
            except OSError:
                break
        self.assertIn(503, seen)
        self.assertEqual(server.process.wait(60), 0, server.said())


if __name__ == "__main__":
    unittest.main()
