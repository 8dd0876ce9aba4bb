"""A model in parts gives the reference's log probabilities and tokens: ranks as threads of one process."""
import json
import unittest

import mica
import test_golden

RANKS = (2, 3, 4)


def heads_of(name):
    return json.loads((mica.GOLDEN / name / "config.json").read_text())["num_attention_heads"]


class OneProcess(test_golden.Comparison):
    def refused(self, model, flags, expected):
        run = mica.run_lines([], mica.GOLDEN / model, ["--dtype", "float32", *flags])
        self.assertEqual(run.status, 1, run)
        self.assertFalse(run.wrote, "a run that cannot start writes nothing")
        self.assertEqual(run.stderr.strip().count("\n"), 0, run)
        self.assertIn(expected, run.stderr)

    def test_what_cannot_be_split_is_refused(self):
        self.refused("granite", ["-tp", 9], "--tensor-parallel-size 9: the model has 8 attention heads")
        self.refused("llama-llama3", ["-tp", 4, "--quantization", "q8_0"], "expected whole groups of 32 (Q8_0)")
        self.refused("granite", ["--tensor-parallel-size", 0], "--tensor-parallel-size '0'")

    def test_the_plan_tells_of_every_rank(self):
        run = mica.run_lines([], mica.GOLDEN / "granite", ["-tp", 3, "--num-gpu-blocks-override", 64])
        self.assertEqual(run.status, 0, run)
        for rank, heads in enumerate(("0-3", "4-5", "6-7")):
            self.assertRegex(run.stderr, rf"rank {rank} +[0-9.]+ MiB .*; heads {heads}, K/V heads")


class RealModel(test_golden.RealModel):
    def test_real_model_float32(self):
        self.real(["--tensor-parallel-size", 3])


def add_tests():
    for name in mica.golden_models():
        for ranks in RANKS:
            if ranks <= heads_of(name):
                setattr(OneProcess, f"test_{name.replace('-', '_')}_on_{ranks}_ranks",
                        lambda self, name=name, ranks=ranks: self.float32(name, ["-tp", ranks]))


add_tests()

if __name__ == "__main__":
    unittest.main()
