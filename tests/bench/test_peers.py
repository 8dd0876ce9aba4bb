"""What bench/peers makes of figures: limits, medians, table, plot, kept results; and the files it writes for engines.

    python3 tests/bench/test_peers.py        no network, no engine
"""
import argparse
import importlib.machinery
import importlib.util
import io
import json
import pathlib
import struct
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "bench"))

import peer_cases
import peer_console
import peer_engines
import peer_files
import peer_install
import peer_report
import peer_shape as shape

LOADER = importlib.machinery.SourceFileLoader("peers", str(ROOT / "bench/peers"))
peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers", LOADER))
LOADER.exec_module(peers)

LIMITS = {"fma_gflops": 200.0, "bf16_dot_gflops": 400.0, "read_gbs": 30.0}


def record(engine, case, value, limits=None):
    return {"engine": engine, "case": case, "value": value, "layers": 10, "threads": 2, "limits": limits or LIMITS,
            "time": "2026-11-25T00:00:00+00:00"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Limits(unittest.TestCase):
    def test_weights_of_the_shape(self):
        self.assertEqual(shape.layer_weights(1), 60_817_408)
        self.assertEqual(shape.adapter_weights(10), 14_090_240)

    def test_a_batch_of_one_is_bound_by_reading(self):
        bytes_read = 2 * (10 * 60_817_408 + 2048 * 49155)
        self.assertAlmostEqual(peer_cases.limit_of("decode1", 10, LIMITS), 30e9 / bytes_read, places=6)

    def test_a_batch_of_32_is_bound_by_multiplying(self):
        flops = 2 * (10 * 60_817_408 + 2048 * 49155)
        self.assertAlmostEqual(peer_cases.limit_of("decode32", 10, LIMITS), 400e9 / flops, places=6)

    def test_the_better_unit_counts(self):
        no_dot = {**LIMITS, "bf16_dot_gflops": 0.0}
        self.assertAlmostEqual(peer_cases.limit_of("prefill", 10, no_dot) * 2,
                               peer_cases.limit_of("prefill", 10, LIMITS), places=6)

    def test_eight_adapters_are_eight_times_the_bytes(self):
        base = shape.least_seconds(10, LIMITS, rows=8, heads=8)
        eight = shape.least_seconds(10, LIMITS, rows=8, heads=8, adapters=8)
        self.assertAlmostEqual(eight - base, 8 * 14_090_240 * 2 / 30e9, places=9)

    def test_an_activated_adapter_reads_the_context_and_computes_its_own_rows(self):
        first_token = peer_cases.limit_of("ttft_alora", 10, LIMITS)
        bytes_read = 2 * (10 * 60_817_408 + 2048 * 49155 + 14_090_240) + 2 * 10 * 8 * 64 * 4096 * 2
        self.assertAlmostEqual(first_token, 1e3 * bytes_read / 30e9, places=6)
        self.assertGreater(peer_cases.limit_of("ttft_lora", 10, LIMITS), 100 * first_token)


class Results(unittest.TestCase):
    def test_each_figure_is_divided_by_the_limits_around_it(self):
        slow = {**LIMITS, "read_gbs": 15.0}
        limit = peer_cases.limit_of("decode1", 10, LIMITS)
        records = [record("mica", "decode1", limit), record("mica", "decode1", limit / 2, slow),
                   record("mica", "decode1", limit / 4)]
        found = peer_cases.summarise(records)["mica", "decode1"]
        self.assertAlmostEqual(found.share, 1)
        self.assertAlmostEqual(found.median, limit / 2)
        self.assertEqual((found.least, found.most, found.count), (limit / 4, limit, 3))

    def test_less_time_is_a_larger_share(self):
        limit = peer_cases.limit_of("ttft_lora", 10, LIMITS)
        self.assertAlmostEqual(peer_cases.share_of_limit(record("mica", "ttft_lora", 2 * limit)), 0.5)

    def test_kept_and_added_to(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            self.assertEqual(peer_cases.load(path), [])
            peer_cases.store(path, [record("mica", "decode1", 1.0)])
            peer_cases.store(path, peer_cases.load(path) + [record("vllm", "decode1", 2.0)])
            self.assertEqual([r["engine"] for r in peer_cases.load(path)], ["mica", "vllm"])
            self.assertEqual([p.name for p in path.parent.iterdir()], ["results.json"])


class Reports(unittest.TestCase):
    records = [record("mica", "decode8", 100.0), record("mica", "decode8", 120.0), record("mica", "decode8", 90.0),
               record("llama", "decode8", 1e6), record("vllm", "memory", 4000.0)]

    def row(self, title):
        table = peer_report.markdown(self.records, "a machine")
        return next(line for line in table.splitlines() if line.startswith(f"| {title}"))

    def test_a_row_has_median_spread_and_share(self):
        share = 100 * 100 / peer_cases.limit_of("decode8", 10, LIMITS)
        self.assertIn(f"| 100 (90.0 to 120), {share:.0f} % |", self.row("decode, batch 8,"))

    def test_what_was_not_measured_says_so(self):
        self.assertEqual(self.row("decode, batch 1,").count("not measured"), 3)

    def test_what_an_engine_cannot_do_says_why(self):
        self.assertIn("| not offered: ", self.row("first token, aLoRA"))

    def test_memory_has_no_share(self):
        self.assertIn("| 4000 (once) |", self.row("peak memory"))

    def test_rows_are_as_wide_as_the_header(self):
        rows = [line for line in peer_report.markdown(self.records, "x").splitlines() if line.startswith("|")]
        self.assertEqual({line.count("|") for line in rows}, {len(peer_cases.ENGINES) + 3})

    def test_the_plot_is_svg_and_stays_inside(self):
        root = xml.fromstring(peer_report.svg(self.records, "a <machine> & its date"))
        bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("x")]
        self.assertEqual(len(bars), 3)
        for bar in bars:
            self.assertLessEqual(float(bar.get("x")) % peer_report.PANEL_WIDTH + float(bar.get("width")),
                                 peer_report.PANEL_WIDTH)
        texts = ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("a <machine> & its date", texts)
        self.assertIn("not offered", texts)


class Files(unittest.TestCase):
    def test_a_gguf_adapter_reads_back(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.gguf"
            peer_files.gguf_adapter(path, 1, [5, 6])
            raw = path.read_bytes()
        magic, version, tensors, keys = struct.unpack_from("<4sIQQ", raw)
        self.assertEqual((magic, version, tensors, keys), (b"GGUF", 3, 2 * len(shape.MODULES), 5))
        self.assertEqual(len(raw) % peer_files.GGUF_ALIGNMENT, 0)
        self.assertGreater(len(raw), 2 * shape.adapter_weights(1))
        self.assertLess(len(raw), 2 * shape.adapter_weights(1) + 4096)
        self.assertIn(peer_files.gguf_text("adapter.alora.invocation_tokens")
                      + struct.pack("<IIQII", peer_files.ARRAY, peer_files.U32, 2, 5, 6), raw)

    def test_a_peft_adapter_reads_back(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a"
            peer_files.peft_adapter(path, 1)
            raw = (path / "adapter_model.safetensors").read_bytes()
            config = json.loads((path / "adapter_config.json").read_text())
        size, = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8:8 + size])
        self.assertEqual(max(t["data_offsets"][1] for t in header.values()), len(raw) - 8 - size)
        self.assertEqual(len(raw) - 8 - size, 2 * shape.adapter_weights(1))
        self.assertEqual(header["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"]["shape"], [2048, 32])
        self.assertEqual((config["r"], len(config["target_modules"])), (32, 7))

    def test_no_weight_is_denormal_or_infinite(self):
        exponents = {v >> 7 & 0xff for v, in struct.iter_unpack("<H", peer_files.random_block()[:1 << 15])}
        self.assertNotIn(0, exponents)
        self.assertNotIn(0xff, exponents)


class Command(unittest.TestCase):
    def settings(self, **more):
        return argparse.Namespace(**{"layers": 10, "threads": 2, "iterations": 2, "only": list(peer_cases.ENGINES),
                                     "cases": [c.name for c in peer_cases.CASES if c.name != "memory"], **more})

    def test_engines_alternate_and_are_not_asked_for_what_they_lack(self):
        plan = list(peers.turns(self.settings()))
        self.assertEqual([e for e, _, _ in plan], ["mica", "vllm", "llama"] * 3)
        self.assertEqual([cases for e, s, cases in plan if (e, s) == ("vllm", "context")], [["ttft_lora"]])

    def test_a_setting_without_cases_is_left_out(self):
        plan = list(peers.turns(self.settings(only=["vllm"], cases=["decode8", "ttft_alora"])))
        self.assertEqual(plan, [("vllm", "base", ["decode8"])])

    def test_unknown_names_are_refused(self):
        with self.assertRaisesRegex(argparse.ArgumentTypeError, "expected some of mica,vllm"):
            peers.words(["mica", "vllm"])("mica,vlm")

    def test_mica_runs_the_shapes_of_the_cases(self):
        def flags(setting, case):
            job = peer_engines.Job("mica", setting, [case], self.settings(), "weights", None)
            return " ".join(map(str, peer_engines.mica_command(job, case, "out")))
        self.assertIn("--batch-size 1 --output-json out --input-len 512 --output-len 1", flags("base", "prefill"))
        eight = flags("adapters", "adapters8")
        self.assertIn("--batch-size 8 ", eight)
        self.assertIn("--output-len 33 --num-iters 2 --synthetic-loras 8 --synthetic-lora-rank 32", eight)
        intrinsic = flags("context", "ttft_alora")
        self.assertIn("--prefix-len 4096 --input-len 8 --output-len 1", intrinsic)
        self.assertIn("--synthetic-lora-kind alora", intrinsic)

    def test_without_the_network_one_line_says_what_is_needed(self):
        with self.assertRaises(peer_console.Failed) as failed:
            peer_install.needs("a-package==1", "7 GB", 1)
        self.assertIn("a-package==1 could not be fetched", str(failed.exception))
        self.assertNotIn("\n", str(failed.exception))

    def test_a_bar_on_a_terminal_and_lines_elsewhere(self):
        for stream, bars in ((Terminal(), 1), (io.StringIO(), 0)):
            progress = peer_console.Progress(stream)
            progress.total = 2
            progress.begin("a step")
            progress.end("done")
            self.assertEqual(stream.getvalue().count("[......"), bars)
            self.assertRegex(stream.getvalue(), r"1/2  a step, \d+\.\d s: done\n$")


if __name__ == "__main__":
    unittest.main()
