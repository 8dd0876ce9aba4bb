"""Runs in vLLM's own environment: one process, one engine, the cases of one setting, a line of JSON for each.

    peer_vllm.py FOLDER SETTING ITERATIONS OUT CASE...     no CASE: only compiles what later processes find compiled
"""
import json
import random
import statistics
import sys
import time

import peer_cases
import peer_shape as shape
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def engine(folder, setting):
    adapters = {}
    if setting != "base":
        adapters = {"enable_lora": True, "max_lora_rank": shape.RANK,
                    "max_loras": shape.ADAPTERS if setting == "adapters" else 1}
    context = setting == "context"
    return LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", seed=0,
               enable_prefix_caching=context, max_model_len=2 * shape.CONTEXT if context else 2 * shape.PREFILL,
               max_num_seqs=32, **adapters)


class Runner:
    def __init__(self, llm, folder):
        self.llm, self.rng = llm, random.Random(2)
        self.adapters = [LoRARequest(f"lora{i}", i + 1, f"{folder}/lora{i}") for i in range(shape.ADAPTERS)]

    def fresh(self, count):
        return [self.rng.randrange(shape.FIRST_ID, shape.VOCAB) for _ in range(count)]

    def seconds(self, prompts, tokens, adapters=0):
        """Of one batch, until every answer has `tokens` tokens. Adapters are dealt round robin."""
        params = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False)
        lora = [self.adapters[i % adapters] for i in range(len(prompts))] if adapters else None
        begun = time.perf_counter()
        answers = self.llm.generate([{"prompt_token_ids": p} for p in prompts], params, lora_request=lora,
                                    use_tqdm=False)
        elapsed = time.perf_counter() - begun
        assert all(len(a.outputs[0].token_ids) == tokens for a in answers)
        return elapsed

    def prefill(self):
        return shape.PREFILL / self.seconds([self.fresh(shape.PREFILL)], 1)

    def decode(self, batch, adapters):
        prompts = lambda: [self.fresh(shape.PROMPT) for _ in range(batch)]
        first = self.seconds(prompts(), 1, adapters)
        return batch * shape.STEPS / (self.seconds(prompts(), 1 + shape.STEPS, adapters) - first)

    def first_token(self):
        context = self.fresh(shape.CONTEXT)
        self.seconds([context], 1)
        return 1e3 * self.seconds([context + shape.INVOCATION_IDS], 1, 1)

    def measure(self, case):
        if case == "prefill":
            return self.prefill()
        if case in peer_cases.BATCH:
            return self.decode(peer_cases.BATCH[case], peer_cases.adapters_of(case))
        return self.first_token()


def main(folder, setting, iterations, out, *cases):
    runner = Runner(engine(folder, setting), folder)
    runner.seconds([runner.fresh(shape.PROMPT)], 2, int(setting != "base"))
    with open(out, "w", encoding="utf-8") as f:
        for case in cases:
            count = 1 if setting == "context" else int(iterations)
            if setting != "context":
                runner.measure(case)      # warms up
            value = statistics.median(runner.measure(case) for _ in range(count))
            print(json.dumps({"case": case, "value": value}), file=f, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
