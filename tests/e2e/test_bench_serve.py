"""`mica bench serve` against a real server: counts, adapters, tenants, conversations, traces, refusals."""
import json
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request
import xml.etree.ElementTree

import mica
import serve

GRANITE = mica.GOLDEN / "granite"
ADAPTERS = {name: GRANITE / "adapters" / name for name in ("lora-all", "lora-o")}
FLAGS = ("--max-model-len", "512", "--kv-cache-memory-bytes", "64M")
TENANTS = (serve.tenant("acme", adapters=["*"]), serve.tenant("blue", adapters=["lora-o"]))
KEYS = "acme=acme-key:3,blue=blue-key"


def start(port, *flags, **more):
    return subprocess.Popen([mica.build_dir() / "mica", "bench", "serve", "--grpc-port", str(port), *map(str, flags)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


class BenchServe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(cls.folder.name) / "tenants.json"
        path.write_text(serve.tenants_text(*TENANTS, admin=False))
        cls.open = serve.Server(GRANITE, FLAGS, ADAPTERS)
        cls.keyed = serve.Server(GRANITE, [*FLAGS, "--tenants", path], ADAPTERS)

    @classmethod
    def tearDownClass(cls):
        assert cls.open.stop() == 0
        assert cls.keyed.stop() == 0

    def path(self, name):
        return pathlib.Path(self.folder.name) / name

    def port(self, server):
        return server.address.rsplit(":", 1)[1]

    def run_bench(self, server, *flags):
        """-> the JSON and what was printed"""
        out = self.path("out.json")
        out.unlink(missing_ok=True)
        p = start(self.port(server), "--output-json", out, *flags)
        stdout, stderr = p.communicate(timeout=240)
        self.assertEqual((p.returncode, stderr), (0, ""))
        return json.loads(out.read_text()), stdout

    def refused(self, port, flags, text):
        out = self.path("refused.json")
        p = start(port, "--output-json", out, *flags)
        stdout, stderr = p.communicate(timeout=120)
        self.assertEqual((p.returncode, stdout), (1, ""))
        self.assertEqual(stderr.count("\n"), 1, stderr)
        self.assertTrue(stderr.startswith("mica bench serve: "), stderr)
        self.assertIn(text, stderr)
        self.assertFalse(out.exists())

    def wait_for(self, server, metric, least=1):
        """Until the server counts so much under that name."""
        until = time.monotonic() + 60
        while True:
            with urllib.request.urlopen(f"http://{server.http}/metrics") as page:
                if any(float(n) >= least for n in re.findall(rf"^{metric}{{.*}} (\S+)$", page.read().decode(), re.M)):
                    return
            self.assertLess(time.monotonic(), until, f"{metric} stays below {least}")

    def check_sums(self, r):
        for kind in ("loras", "tenants"):
            for field in ("num_requests", "completed", "failed", "total_input_tokens", "total_output_tokens",
                          "cached_tokens"):
                if r[kind]:
                    self.assertEqual(sum(g[field] for g in r[kind].values()), r[field], (kind, field))
        for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "queued_ms"):
            row = r[metric]
            self.assertTrue(0 <= row["p50"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"], row)

    def test_everything_at_once_is_counted(self):
        r, said = self.run_bench(self.open, "--num-prompts", 60, "--input-len", 20, "--output-len", 7,
                                 "--lora-weights", "lora-all=2,base=1,lora-o", "--goodput", "ttft:100000", "itl:100000")
        self.assertEqual((r["num_requests"], r["completed"], r["failed"], r["not_sent"]), (60, 60, 0, 0))
        self.assertEqual((r["total_input_tokens"], r["total_output_tokens"]), (60 * 20, 60 * 7))
        self.assertEqual((r["good"], r["errors"], r["tenants"]), (60, {}, {}))
        self.assertEqual(set(r["loras"]), {"lora-all", "base", "lora-o"})
        self.check_sums(r)
        self.assertGreater(r["loras"]["lora-all"]["completed"], r["loras"]["base"]["completed"])
        self.assertAlmostEqual(r["request_throughput"], 60 / r["duration"])
        self.assertAlmostEqual(r["output_throughput"], 420 / r["duration"])
        self.assertGreaterEqual(r["e2el_ms"]["p50"], r["ttft_ms"]["p50"])
        self.assertLessEqual(r["e2el_ms"]["max"], 1000 * r["duration"])
        self.assertGreater(r["peak_concurrency"], 1)
        self.assertIn("60 completed, 0 failed", said)

    def test_the_rate_is_kept_whatever_the_server_does(self):
        r, _ = self.run_bench(self.open, "--num-prompts", 100, "--request-rate", 100, "--output-len", 2)
        self.assertEqual(r["completed"], 100)
        self.assertGreater(r["duration"], 0.6)  # a hundred exponential gaps of 10 ms, with this seed
        self.assertEqual(r["settings"]["request_rate"], 100)
        ramped, _ = self.run_bench(self.open, "--num-prompts", 100, "--request-rate", 100, "--output-len", 2,
                                   "--ramp-seconds", 1)
        self.assertGreater(ramped["duration"], 1.1)  # the ramp holds half a second's arrivals back

    def test_prefixes_and_conversations_come_from_the_cache(self):
        r, _ = self.run_bench(self.open, "--num-prompts", 12, "--turns", 4, "--input-len", 16, "--output-len", 9,
                              "--prefix-len", 50, "--num-prefixes", 2, "--seed", 77, "--max-concurrency", 1)
        self.assertEqual((r["num_requests"], r["completed"], r["peak_concurrency"]), (48, 48, 1))
        turns = [50 + 16 * (t + 1) + 9 * t for t in range(4)]
        self.assertEqual(r["total_input_tokens"], 12 * sum(turns))
        # A later turn finds all but its new tokens and the one that the last answer ended with; ten of twelve
        # first turns find their prefix. Random tokens may go on alike: a few more.
        found = 12 * sum(t - 17 for t in turns[1:]) + 10 * 50
        self.assertGreaterEqual(r["cached_tokens"], found)
        self.assertLessEqual(r["cached_tokens"], found + 48)
        self.assertAlmostEqual(r["cache_hit_rate"], r["cached_tokens"] / r["total_input_tokens"])

    def test_tenants_have_their_keys_and_their_adapters(self):
        r, said = self.run_bench(self.keyed, "--num-prompts", 80, "--output-len", 3, "--tenant-keys", KEYS,
                                 "--lora-weights", "lora-all,lora-o")
        self.check_sums(r)
        acme, blue = r["tenants"]["acme"], r["tenants"]["blue"]
        self.assertGreater(acme["num_requests"], blue["num_requests"])
        self.assertEqual(acme["failed"], 0)
        self.assertGreater(blue["failed"], 0)  # it does not see lora-all
        self.assertEqual(r["loras"]["lora-o"]["failed"], 0)
        self.assertEqual(list(r["errors"]), ["NOT_FOUND"])
        self.assertEqual(r["errors"]["NOT_FOUND"]["count"], blue["failed"])
        self.assertIn("lora-all", r["errors"]["NOT_FOUND"]["first"])
        self.assertNotIn("acme-key", json.dumps(r) + said)
        keys = self.path("keys")
        keys.write_text("# who\nacme=acme-key\n")
        r, _ = self.run_bench(self.keyed, "--num-prompts", 5, "--output-len", 3, "--tenant-keys", f"@{keys}")
        self.assertEqual(r["tenants"]["acme"]["completed"], 5)

    def test_a_failed_turn_ends_its_conversation(self):
        r, _ = self.run_bench(self.keyed, "--num-prompts", 5, "--turns", 3, "--output-len", 3, "--tenant-keys",
                              "blue=blue-key", "--lora-weights", "lora-all")
        self.assertEqual((r["num_requests"], r["completed"], r["failed"], r["not_sent"]), (15, 0, 5, 10))

    def test_a_trace_is_played_as_it_is_written(self):
        trace, plot = self.path("trace.jsonl"), self.path("plot.svg")
        trace.write_text('{"at": 0, "input_len": 5, "output_len": 4}\n'
                         '{"at": 0.2, "lora": "lora-o", "tenant": "blue", "output_len": 1}\n'
                         '{"at": 0.7, "lora": "lora-all", "tenant": "acme", "input_len": 60, "output_len": 20}\n')
        flags = [*FLAGS, *serve.slow_device(), "--tenants", self.path("tenants.json")]
        with serve.Server(GRANITE, flags, ADAPTERS) as slow:  # gaps between tokens are drawn: there must be some
            r, said = self.run_bench(slow, "--trace", trace, "--tenant-keys", "acme=acme-key,blue=blue-key:0",
                                     "--plot", plot)
        self.assertEqual((r["completed"], r["total_input_tokens"], r["total_output_tokens"]), (3, 5 + 32 + 60, 25))
        self.assertEqual({k: g["completed"] for k, g in r["tenants"].items()}, {"acme": 2, "blue": 1})
        self.assertEqual({k: g["completed"] for k, g in r["loras"].items()}, {"base": 1, "lora-o": 1, "lora-all": 1})
        self.assertGreaterEqual(r["duration"], 0.7)
        self.assertIn("from a trace", said)
        svg = xml.etree.ElementTree.parse(plot)
        self.assertEqual(len(svg.findall(".//{*}circle")), 3)
        self.assertGreaterEqual(len(svg.findall(".//{*}polyline")), 5)

    def test_invocations_activate_adapters(self):
        config = json.loads((GRANITE / "adapters/alora-all/adapter_config.json").read_text())
        ids = ",".join(map(str, config["alora_invocation_tokens"]))
        with serve.Server(GRANITE, [*FLAGS, "--require-activation"],
                          {"alora-all": GRANITE / "adapters/alora-all"}) as server:
            flags = ("--num-prompts", 6, "--output-len", 2, "--lora-weights", "alora-all")
            r, _ = self.run_bench(server, *flags, "--alora-invocations", f"alora-all={ids}")
            self.assertEqual(r["completed"], 6)
            r, _ = self.run_bench(server, *flags, "--seed", 1)
            self.assertEqual(list(r["errors"]), ["INVALID_ARGUMENT"])

    def test_refusals_are_one_line(self):
        opened, keyed, trace = self.port(self.open), self.port(self.keyed), self.path("bad.jsonl")
        trace.write_text('{"at": 0}\n{"at": 1, "tenant": "x"}\n')
        self.refused(1, (), "127.0.0.1:1: expected a running 'mica serve' there: UNAVAILABLE")
        self.refused(self.open.http.rsplit(":", 1)[1], (), "expected a running 'mica serve' there")
        self.refused(keyed, (), "wants a key: expected --tenant-keys NAME=KEY")
        self.refused(keyed, ("--tenant-keys", "acme=acme-key,blue=wrong"), "refuses the key of tenant 'blue'")
        self.refused(opened, ("--trace", trace), 'bad.jsonl\', line 2: "tenant" "x": expected a name that')
        self.refused(opened, ("--trace", trace, "--request-rate", 3), "no rate beside --trace")
        self.refused(opened, ("--request-rate", "0"), "--request-rate '0': expected a number above 0, or inf")
        self.refused(opened, ("--ramp-seconds", 3), "--ramp-seconds needs a --request-rate")
        self.refused(opened, ("--input-len", 500), "have 628 tokens: expected at most the server's --max-model-len")
        self.refused(opened, ("--alora-invocations", "x=1"), "expected a name that --lora-weights has")
        self.refused(opened, ("--alora-invocations", "base=500000"), "id 500000 of 'base' is not below")
        self.refused(opened, ("--goodput", "speed:1"), "--goodput 'speed:1': expected ttft:MS")
        self.refused(opened, ("--plot", "/nowhere/p.svg"), "cannot write '/nowhere/p.svg'")
        self.refused(opened, ("--ssl-ca-certs", "/nowhere/ca"), "--ssl-ca-certs '/nowhere/ca': No such file")

    def test_a_signal_ends_it_in_one_line_and_frees_the_server(self):
        p = start(self.port(self.open), "--request-rate", 50, "--num-prompts", 100000, "--output-len", 100)
        self.wait_for(self.open, "vllm:num_requests_running")
        p.send_signal(signal.SIGINT)
        stdout, stderr = p.communicate(timeout=60)
        self.assertEqual((p.returncode, stdout), (130, ""))
        self.assertEqual(stderr, "mica bench serve: interrupted; no figures\n")
        r, _ = self.run_bench(self.open, "--num-prompts", 3, "--output-len", 2)
        self.assertEqual(r["completed"], 3)

    def test_a_server_that_goes_away_is_counted(self):
        server = serve.Server(GRANITE, FLAGS)
        out = self.path("gone.json")
        p = start(self.port(server), "--request-rate", 100, "--num-prompts", 150, "--output-len", 100,
                  "--output-json", out)
        self.wait_for(server, "vllm:request_success_total", 10)
        server.process.kill()
        _, stderr = p.communicate(timeout=120)
        self.assertEqual((p.returncode, stderr), (0, ""))
        server.stop()
        r = json.loads(out.read_text())
        self.assertGreater(r["completed"], 0)
        self.assertGreater(r["errors"]["UNAVAILABLE"]["count"], 0)
        self.assertEqual(r["completed"] + r["failed"], 150)


if __name__ == "__main__":
    unittest.main()
