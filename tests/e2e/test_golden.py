"""Log probabilities and greedy tokens against the recorded answers of transformers + PEFT."""
import json
import math
import unittest

import mica

TOLERANCE = 1e-4
REAL_TOLERANCE = 2e-3
BFLOAT16_SLACK = 1.15   # another order of sums: the deviations are alike, not the same


def body_of(case, **more):
    prompt = case["prompt"] if case["prompt"] is not None else case["prompt_ids"]
    return {"model": case["adapter"] or mica.BASE, "prompt": prompt, "max_tokens": len(case["tokens"]),
            "temperature": 0, "ignore_eos": True, "logprobs": 5, "return_token_ids": True,
            "return_tokens_as_token_ids": True, **more}


def knobs(rng):
    return ["--block-size", rng.choice((8, 16, 32)), "--max-num-seqs", rng.choice((1, 3, 16, 64)),
            "--max-num-batched-tokens", rng.choice((16, 37, 64, 512)), "--threads", rng.choice((1, 2)),
            "--max-loras", rng.choice((1, 2, 8))]


class Comparison(unittest.TestCase):
    """What the checks of one answer share."""

    def close(self, got, want, tolerance, where):
        self.assertFalse(math.isnan(got), where)
        self.worst = max(self.worst, abs(got - want))
        self.assertLessEqual(abs(got - want), tolerance, f"{where}: {got} instead of {want}")

    def check_row(self, own, best, row, tolerance, where):
        """own: log probability of the token; best: {id: log probability}; row: [own, [id, value]...]"""
        self.close(own, row[0], tolerance, where)
        for rank, (token, value) in enumerate(row[1:]):
            self.close(sorted(best.values(), reverse=True)[rank], value, tolerance, f"{where}, rank {rank + 1}")
            if token in best:
                self.close(best[token], value, tolerance, f"{where}, token {token}")

    def check_prompt(self, case, choice, tolerance):
        self.assertIsNone(choice["prompt_logprobs"][0])
        self.assertEqual(len(choice["prompt_logprobs"]), len(case["prompt_ids"]), case["name"])
        for i, row in enumerate(case["prompt_logprobs"]):
            got = {int(k): v["logprob"] for k, v in choice["prompt_logprobs"][i + 1].items()}
            self.check_row(got[case["prompt_ids"][i + 1]], got, row, tolerance, f"{case['name']}, prompt {i + 1}")

    def check_generated(self, case, choice, tolerance):
        logprobs = choice["logprobs"]
        for i, token in enumerate(case["tokens"]):
            best = {int(k.split(":")[1]): v for k, v in logprobs["top_logprobs"][i].items()}
            row, where = case["logprobs"][i], f"{case['name']}, token {i}"
            if choice["token_ids"][i] != token:
                self.assertLess(row[1][1] - row[2][1], 10 * tolerance, f"{where}: {choice['token_ids'][i]}")
                return
            self.check_row(logprobs["token_logprobs"][i], best, row, tolerance, where)
        self.assertEqual(len(choice["token_ids"]), len(case["tokens"]), case["name"])
        self.assertEqual(choice["finish_reason"], "length")

    def check_adapter(self, case, answer):
        if case["adapter"] is None:
            self.assertIsNone(answer["adapter"])
        else:
            self.assertEqual(answer["adapter"], {"name": case["adapter"], "activation": case["activation"]},
                             case["name"])

    def check(self, case, answer, tolerance, with_prompt):
        choice = answer["choices"][0]
        self.assertEqual(choice["prompt_token_ids"], case["prompt_ids"], case["name"])
        self.check_adapter(case, answer)
        if with_prompt:
            self.check_prompt(case, choice, tolerance)
        self.check_generated(case, choice, tolerance)


    def float32(self, name, flags=(), start=mica.start_alone, again=2):
        """Cold with prompt_logprobs and, in the same batch, again without: those may read the cache."""
        folder, rng = mica.GOLDEN / name, mica.seeded("golden", name, *flags)
        todo = [(c, {"prompt_logprobs": 5}) for c in mica.cases_of(folder)]
        todo += [(c, {}) for c, _ in todo for _ in range(again)]
        rng.shuffle(todo)
        answers = mica.run([body_of(c, **more) for c, more in todo], folder,
                           ["--dtype", "float32", *knobs(rng), *flags], mica.adapters_of(folder), start)
        self.worst = 0
        for (case, more), answer in zip(todo, answers):
            self.check(case, answer, TOLERANCE, bool(more))


class Golden(Comparison):
    def bfloat16(self, name, flags=(), start=mica.start_alone):
        """The reference's tokens as the prompt; root mean square deviation from float64, all cases together."""
        folder, rng = mica.GOLDEN / name, mica.seeded("bfloat16", name)
        cases, bodies = mica.cases_of(folder), []
        for case in cases:
            body = {"model": case["adapter"] or mica.BASE, "prompt": case["prompt_ids"] + case["tokens"],
                    "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
            if case["adapter"] and case["activation"] is None:
                body["model"] = mica.BASE
            elif case["adapter"] and case["adapter"].startswith("alora"):
                body["activation"] = case["activation"]
            bodies.append(body)
        answers = mica.run(bodies, folder, ["--dtype", "bfloat16", *knobs(rng), *flags], mica.adapters_of(folder),
                           start)
        squares = count = 0
        for case, answer in zip(cases, answers):
            rows = answer["choices"][0]["prompt_logprobs"][1:]
            tokens = case["prompt_ids"][1:] + case["tokens"]
            wanted = case["prompt_logprobs"] + case["logprobs"]
            for row, token, want in zip(rows, tokens, wanted, strict=True):
                squares += (row[str(token)]["logprob"] - want[0]) ** 2
                count += 1
        ours = math.sqrt(squares / count)
        theirs = math.sqrt(sum(c["bfloat16_squares"] for c in cases) / count)
        self.assertLessEqual(ours, BFLOAT16_SLACK * theirs, f"{ours:.4f} off, transformers {theirs:.4f}")
        self.assertGreater(ours, 1e-4, "that was not bfloat16")


def add_tests():
    for name in mica.golden_models():
        title = name.replace("-", "_")
        setattr(Golden, f"test_{title}_float32", lambda self, name=name: self.float32(name))
        setattr(Golden, f"test_{title}_bfloat16", lambda self, name=name: self.bfloat16(name))


add_tests()


class RealModel(Comparison):
    def test_real_model_float32(self):
        self.real()

    def real(self, flags=()):
        if not mica.REAL_MODEL.exists():
            self.skipTest("bench/fetch_model has not been run")
        cases = json.loads((mica.ROOT / "tests/golden/real_model.json").read_text())["cases"]
        adapters = {p.name: p for p in (mica.ROOT / "bench/demo_adapters").iterdir() if p.is_dir()}
        todo = [(c, more) for c in cases for more in ({"prompt_logprobs": 5}, {})]
        self.worst = 0
        answers = mica.run([body_of(c, **more) for c, more in todo], mica.REAL_MODEL,
                           ["--dtype", "float32", "--max-model-len", 2048, *flags], adapters)
        for (case, more), answer in zip(todo, answers):
            self.check(case, answer, REAL_TOLERANCE, bool(more))


if __name__ == "__main__":
    unittest.main()
