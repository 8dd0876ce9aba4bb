"""Same request, same bits: random models, adapters and requests, each alone and cold, then under random knobs.

    python3 tests/e2e/test_same_bits.py [--first SEED] [--count N] [--build DIR]

One process serves the requests one after another without a cache; others serve the same requests in another order,
batched, chunked, cached, preempted, on other thread counts. Token ids and log probabilities must not differ in a bit.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import sys
import tempfile
import unittest

import mica
import random_model

COUNT = int(os.environ.get("MICA_SAME_BITS_SEEDS", 200))
VARIANTS = 2
COMPARED = ("text", "token_ids", "finish_reason", "stop_reason", "logprobs", "prompt_logprobs", "prompt_token_ids")


class Scenario:
    """A model, its adapters, and requests; all from one seed."""

    def __init__(self, seed, folder):
        self.rng = rng = mica.seeded("same bits", seed)
        self.invocations, self.flags = {}, []
        if rng.random() < 0.5:
            self.model = mica.GOLDEN / rng.choice(mica.golden_models())
            self.config = json.loads((self.model / "config.json").read_text())
            paths = mica.adapters_of(self.model)
            self.adapters = {n: paths[n] for n in rng.sample(sorted(paths), min(len(paths), 5))}
            for name, path in self.adapters.items():
                adapter = json.loads((path / "adapter_config.json").read_text())
                self.invocations[name] = adapter.get("alora_invocation_tokens")
        else:
            self.model = folder / "model"
            self.model.mkdir()
            self.config = random_model.random_config(rng)
            (self.model / "config.json").write_text(json.dumps(self.config))
            self.flags = ["--load-format", "dummy"]
            self.adapters = {}
            for i in range(rng.randint(0, 4)):
                self.adapters[f"a{i}"] = folder / f"a{i}"
                self.invocations[f"a{i}"] = random_model.write_adapter(rng, folder / f"a{i}", self.config)
        self.flags += ["--dtype", rng.choice(("float32", "float32", "bfloat16", "auto")), "--seed", rng.randint(0, 3),
                       "--cpu-kernels", rng.choice(("auto", "auto", "portable")),
                       "--quantization", rng.choice(("auto", "auto", "q8_0", "q4_0")),
                       "--kv-cache-dtype", rng.choice(("auto", "auto", "int8"))]
        if self.flags[self.flags.index("--quantization") + 1] == "auto":   # groups would have to fit
            ranks = rng.choice((1, 1, 2, 3))
            self.flags += ["--tensor-parallel-size", min(ranks, self.config["num_attention_heads"])]
        self.bodies = self.make_bodies()
        self.longest = max(len(b["prompt"]) + b["max_tokens"] for b in self.bodies)

    def make_prompt(self, stems, invocation):
        rng, vocab = self.rng, self.config["vocab_size"]
        stem = rng.choice(stems)
        prompt = stem[:rng.randint(1, len(stem))] if rng.random() < 0.5 else list(stem)
        if invocation and rng.random() < 0.8:
            prompt = prompt + invocation
        if rng.random() < 0.5:
            prompt = prompt + [rng.randrange(3, vocab) for _ in range(rng.randint(1, 20))]
        return prompt

    def make_bodies(self):
        rng, vocab = self.rng, self.config["vocab_size"]
        stems = [[rng.randrange(3, vocab) for _ in range(rng.choice((5, 30, 64, 100, 160)))] for _ in range(3)]
        bodies = []
        for _ in range(rng.randint(4, 14)):
            name = rng.choice([None, *self.adapters])
            prompt = self.make_prompt(stems, self.invocations.get(name))
            body = {"model": name or mica.BASE, "prompt": prompt, "max_tokens": rng.choice((1, 3, 9, 24)),
                    "temperature": rng.choice((0, 0.7, 1.3)), "ignore_eos": rng.random() < 0.8,
                    "logprobs": rng.choice((0, 2)), "return_token_ids": True}
            if body["temperature"]:
                body.update(n=rng.choice((1, 1, 2, 3)), top_p=rng.choice((1, 0.9)), top_k=rng.choice((-1, 20)))
                if rng.random() < 0.5:
                    body["seed"] = rng.randint(0, 9)
            if rng.random() < 0.2:
                body.update(frequency_penalty=0.5, repetition_penalty=1.2)
            if rng.random() < 0.15:
                body["prompt_logprobs"] = 1
            if rng.random() < 0.15:
                body["cache_salt"] = rng.choice("ab")
            if name and self.invocations.get(name) is not None and rng.random() < 0.2:
                body["activation"] = rng.randrange(len(prompt))
            bodies.append(body)
        return bodies

    def knobs(self):
        rng = self.rng
        block_size = rng.choice((8, 16, 32, 64, 256))
        need = math.ceil(self.longest / block_size)
        blocks = rng.choice((need, need + 1, need + 2, 2 * need, 20 * need))
        flags = ["--block-size", block_size, "--num-gpu-blocks-override", blocks,
                 "--max-num-seqs", rng.choice((1, 2, 3, 8, 64)),
                 "--max-num-batched-tokens", rng.choice((1, 7, 16, 40, 100, 512)), "--threads", rng.randint(1, 3),
                 "--max-loras", rng.randint(1, 3), "--scheduling-policy", rng.choice(("fcfs", "priority"))]
        if rng.random() < 0.3:
            most = min(blocks * block_size, self.config["max_position_embeddings"])
            flags += ["--max-model-len", rng.randint(self.longest, most)]
        if rng.random() < 0.25:
            flags.append("--no-enable-prefix-caching")
        order = list(range(len(self.bodies)))
        rng.choice((order.reverse, lambda: rng.shuffle(order)))()
        return flags, order

    def serve(self, flags, order):
        lines = [mica.line_of(str(i), self.bodies[i]) for i in order]
        result = mica.run_lines(lines, self.model, [*self.flags, *flags], self.adapters)
        assert result.status == 0, str(result)
        answers = result.by_id()
        assert len(answers) == len(order), f"{len(answers)} answers to {len(order)} requests\n{result}"
        for i in order:
            assert answers[str(i)]["status_code"] == 200, f"{answers[str(i)]}\n{result}"
        return {i: answers[str(i)]["body"] for i in order}


def difference(body, alone, other):
    """-> what differs first, or None"""
    if alone["adapter"] != other["adapter"]:
        return f"adapter: {alone['adapter']} alone, {other['adapter']}"
    for index, (a, b) in enumerate(zip(alone["choices"], other["choices"], strict=True)):
        for key in COMPARED:
            if a.get(key) != b.get(key):
                return f"choice {index}, {key}:\n  alone {str(a.get(key))[:600]}\n  here  {str(b.get(key))[:600]}"
    return None


def check_seed(seed):
    """-> None, or what went wrong"""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(seed, pathlib.Path(folder))
        plain = ["--block-size", 16, "--num-gpu-blocks-override", 64, "--max-num-seqs", 1, "--threads", 1,
                 "--max-num-batched-tokens", 512, "--no-enable-prefix-caching"]
        try:
            alone = scenario.serve(plain, range(len(scenario.bodies)))
            for _ in range(VARIANTS):
                flags, order = scenario.knobs()
                here = scenario.serve(flags, order)
                for i, body in enumerate(scenario.bodies):
                    what = difference(body, alone[i], here[i])
                    if what:
                        return f"{scenario.flags} {flags}\n  request {i} of order {order}: {body}\n  {what}"
        except AssertionError as error:
            return str(error)
    return None


def check_seeds(first, count, workers=2):
    """-> failures as text, each with the line that repeats it"""
    failures = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for seed, what in zip(range(first, first + count), pool.map(check_seed, range(first, first + count))):
            if what:
                failures.append(f"{what}\nrepro: python3 tests/e2e/test_same_bits.py --first {seed} --count 1")
    return failures


class SameBits(unittest.TestCase):
    def test_same_request_same_bits(self):
        failures = check_seeds(int(os.environ.get("MICA_SAME_BITS_FIRST", 0)), COUNT)
        self.assertFalse(failures, f"{len(failures)} of {COUNT} seeds\n" + "\n".join(failures[:3]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--build", default=str(mica.build_dir()))
    args = parser.parse_args()
    os.environ["MICA_BUILD"] = args.build
    failures = check_seeds(args.first, args.count)
    print("\n".join(failures[:10]))
    print(f"{args.count - len(failures)} seeds the same, {len(failures)} not")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
