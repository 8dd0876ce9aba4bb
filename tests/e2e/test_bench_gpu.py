"""bench/gpu: its table, of a tiny shape on the emulated CUDA, where the numbers mean nothing; a line without a GPU."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import mica

PLUGIN = mica.build_dir() / "libmica_cuda.so"
BENCH = [str(mica.ROOT / "bench/gpu"), "--build", str(mica.build_dir())]
SMALL = ["--config", str(mica.GOLDEN / "granite/config.json"), "--rounds", "2", "--batch", "4", "--rank", "8",
         "--tokens", "3", "--prompt", "24", "--context", "64", "--mica-flag=--num-gpu-blocks-override=64"]


def bench(*arguments, prefix=(), **settings):
    return subprocess.run([*prefix, *BENCH, *arguments], capture_output=True, text=True, timeout=mica.TIMEOUT_S,
                          env={**os.environ, **settings}, check=False)


class WithoutGpu(unittest.TestCase):
    @unittest.skipIf(os.environ.get("MICA_GPU"), "there is one")
    def test_one_line(self):
        done = bench()
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"^bench/gpu: .+\n$")

    def test_an_unknown_part(self):
        self.assertEqual(bench("speed").returncode, 2)


@unittest.skipIf(not PLUGIN.exists(), "the plugin is not built")
class Emulated(unittest.TestCase):
    def run_small(self, *arguments, devices):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "gpu.md"
            done = bench(*SMALL, "--output", str(path), *arguments, prefix=[str(mica.ROOT / "tests/emulated")],
                         EMU_DEVICES=str(devices))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(path.read_text(), done.stdout)
            return done.stdout

    def rows(self, text):
        cells = [re.findall(r" ([^|]*) \|", line) for line in text.splitlines() if line.startswith("| ")]
        return {c[0]: c[1:] for c in cells[2:]}

    def test_all_rows(self):
        rows = self.rows(self.run_small("--bandwidth", "0.001", "--tflops", "0.0001", devices=2))
        self.assertEqual(len(rows), 29)
        for name, (median, spread, share) in rows.items():
            if "a product" in name:   # a difference, of nearly nothing here
                continue
            self.assertRegex(median, r"^[0-9.]*[1-9][0-9.]* (ms|us)$", name)
            self.assertRegex(spread, r" to ", name)
            has_share = not re.search("all-reduce|idle gap", name)
            self.assertEqual(bool(re.fullmatch(r"[0-9.]*[1-9][0-9.]* %", share)), has_share, name)

    def test_one_gpu_of_unknown_limits(self):
        text = self.run_small("attention", "all_reduce", devices=1)
        rows = self.rows(text)
        self.assertEqual(len(rows), 3)
        self.assertEqual({share for _, _, share in rows.values()}, {""})
        self.assertIn("an unknown bandwidth", text)


if __name__ == "__main__":
    unittest.main()
