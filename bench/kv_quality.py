#!/usr/bin/env python3
"""What the type of K/V does to log probabilities: the real model reads this project's READMEs under each.

    bench/kv_quality.py [--build DIR] [--tokens N] [--model PATH]

Prints, for each pair of runs: the mean and largest difference of a token's log probability, how often the two agree on
the likeliest token, and the mean Kullback-Leibler divergence over the first run's 20 likeliest tokens and the rest.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = ROOT / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = ("README.md", "paged_kv/README.md", "adapters/README.md", "tests/README.md", "runtime/cli/README.md")
FLAGS = {"float32": ["--dtype", "float32"], "bfloat16": ["--dtype", "bfloat16"],   # a GGUF's weights are as they are
         "int8": ["--dtype", "bfloat16", "--kv-cache-dtype", "int8"]}
PAIRS = (("float32", "bfloat16"), ("float32", "int8"), ("bfloat16", "int8"))


def prompts(args):
    """The first N tokens of each text, as ids."""
    bodies = [{"model": "base", "prompt": (ROOT / t).read_text(), "max_tokens": 1, "return_token_ids": True}
              for t in TEXTS]
    return [a["choices"][0]["prompt_token_ids"][:args.tokens] for a in run(args, bodies, "bfloat16")]


def run(args, bodies, kv):
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "in"), pathlib.Path(folder, "out")
        source.write_text("".join(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions",
                                              "body": b}) + "\n" for i, b in enumerate(bodies)))
        subprocess.run([f"{args.build}/mica", "run-batch", "-i", source, "-o", target, "--model", args.model,
                        "--served-model-name", "base", "--kv-cache-memory-bytes", "1G", *FLAGS[kv]],
                       check=True, stderr=subprocess.PIPE)
        lines = [json.loads(line) for line in target.read_text().splitlines()]
    answers = {line["custom_id"]: line["response"]["body"] for line in lines}
    return [answers[str(i)] for i in range(len(bodies))]


def positions(args, ids, kv):
    """-> for each prompt position: the token's log probability, the likeliest token, {token: log probability}"""
    bodies = [{"model": "base", "prompt": p, "max_tokens": 1, "prompt_logprobs": 20} for p in ids]
    out = []
    for prompt, answer in zip(ids, run(args, bodies, kv)):
        for token, row in zip(prompt[1:], answer["choices"][0]["prompt_logprobs"][1:]):
            best = min(row, key=lambda t: row[t]["rank"])
            out.append((row[str(token)]["logprob"], best, {t: v["logprob"] for t, v in row.items()}))
    return out


def divergence(a, b):
    """Of b from a, over the tokens that both runs list and one heap of all others."""
    common = a.keys() & b.keys()
    kl = sum(math.exp(a[t]) * (a[t] - b[t]) for t in common)
    p, q = (max(1 - sum(math.exp(x[t]) for t in common), 1e-9) for x in (a, b))
    return kl + p * math.log(p / q)


def compare(a, b):
    off = [abs(x[0] - y[0]) for x, y in zip(a, b, strict=True)]
    same = sum(x[1] == y[1] for x, y in zip(a, b))
    kl = sum(divergence(x[2], y[2]) for x, y in zip(a, b)) / len(a)
    return f"mean {sum(off) / len(off):.5f}  max {max(off):.3f}  same best {same / len(a):.2%}  KL {kl:.2e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=str(ROOT / "build/release"))
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--model", default=str(MODEL))
    args = parser.parse_args()
    ids = prompts(args)
    runs = {kv: positions(args, ids, kv) for kv in FLAGS}
    print(f"{sum(map(len, ids))} tokens of {len(ids)} texts")
    for a, b in PAIRS:
        print(f"{a:8} to {b:8}  {compare(runs[a], runs[b])}")


if __name__ == "__main__":
    sys.exit(main())
