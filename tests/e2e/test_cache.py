"""cached_tokens, to the token: what base, LoRA and aLoRA requests read of each other's K/V.

Requests run one after another (--max-num-seqs 1), so each sees exactly what those before it left.
"""
import unittest

import mica

MODEL = mica.GOLDEN / "granite"


def served(requests, *flags):
    """requests: bodies, or functions that make one of the answers to those before it. -> answers"""
    answers, bodies = [], []
    for request in requests:
        if callable(request):
            answers = run_in_order(bodies, flags)
            request = request(answers)
        bodies.append(request)
    return run_in_order(bodies, flags)


def run_in_order(bodies, flags):
    return mica.run(bodies, MODEL, ["--max-num-seqs", 1, "--dtype", "float32", *flags], mica.adapters_of(MODEL))


def ask(prompt, model=mica.BASE, max_tokens=1, **more):
    return {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, **more}


def tokens(answer):
    return answer["choices"][0]["token_ids"]


class Cache(unittest.TestCase):
    def setUp(self):
        self.rng = mica.seeded("cache")
        self.context = mica.random_ids(self.rng, 101)
        case = next(c for c in mica.cases_of(MODEL) if c["adapter"] == "alora-qkv" and c["activation"])
        start = case["activation"]
        end = case["prompt_ids"].index(2, start) + 1   # <|end_of_role|>
        self.invocation = case["prompt_ids"][start:end]

    def cached(self, requests, *flags):
        return [mica.cached_tokens(a) for a in served(requests, *flags)]

    def test_alora_computes_only_from_its_activation_on_at_any_block_size(self):
        prompt = self.context + self.invocation
        for block_size in (8, 16, 64):
            got = self.cached([ask(self.context), ask(prompt, "alora-qkv"), ask(prompt, "alora-all"),
                               ask(prompt, "alora-qkv"), ask(prompt)], "--block-size", block_size)
            whole = len(prompt) - 1
            self.assertEqual(got, [0, len(self.context), len(self.context), whole, len(self.context)])

    def test_base_reads_what_an_alora_request_computed_before_its_activation(self):
        prompt = self.context + self.invocation
        for block_size in (8, 16, 64):
            got = self.cached([ask(prompt, "alora-qkv", 5), ask(self.context + [77, 78])],
                              "--block-size", block_size)
            self.assertEqual(got, [0, len(self.context)])

    def test_a_conversation_goes_from_base_to_alora_and_back(self):
        n = len(self.context)
        for block_size in (8, 16, 64):
            answers = served([
                ask(self.context, max_tokens=20),
                lambda a: ask(self.context + tokens(a[0]) + self.invocation, "alora-qkv", 6),
                lambda a: ask(self.context + tokens(a[0]) + self.invocation + tokens(a[1]) + [60, 61, 62]),
            ], "--block-size", block_size)
            # All generated tokens but the last are there; the aLoRA request computes that one as base.
            self.assertEqual([mica.cached_tokens(a) for a in answers], [0, n + 19, n + 20])
            self.assertEqual(answers[1]["adapter"]["activation"], n + 20)

    def test_generated_tokens_of_an_adapter_are_read_by_itself_alone(self):
        prompt = self.context + self.invocation
        n = len(prompt)
        got = self.cached([
            ask(prompt, "alora-qkv", 9),
            lambda a: ask(prompt + tokens(a[0]), "alora-qkv", 1, activation=len(self.context)),
            lambda a: ask(prompt + tokens(a[0]), "alora-all", 1, activation=len(self.context)),
        ])
        self.assertEqual(got, [0, n + 8, len(self.context)])

    def test_lora_shares_nothing_with_base(self):
        got = self.cached([ask(self.context), ask(self.context, "lora-qkv"), ask(self.context, "lora-all"),
                           ask(self.context, "lora-qkv"), ask(self.context)])
        self.assertEqual(got, [0, 0, 0, len(self.context) - 1, len(self.context) - 1])

    def test_a_common_prefix_counts_to_the_token(self):
        for common in (1, 7, 8, 9, 31, 100):
            other = self.context[:common] + [255] * 20
            got = self.cached([ask(self.context), ask(other)])
            self.assertEqual(got, [0, common])

    def test_an_empty_invocation_activates_at_the_last_token(self):
        got = self.cached([ask(self.context), ask(self.context, "alora-empty")])
        self.assertEqual(got, [0, len(self.context) - 1])

    def test_an_invocation_that_is_not_there_leaves_base(self):
        answers = served([ask(self.context), ask(self.context, "alora-qkv", 4), ask(self.context, max_tokens=4)])
        self.assertEqual([mica.cached_tokens(a) for a in answers],
                         [0, len(self.context) - 1, len(self.context) - 1])
        self.assertEqual(answers[1]["adapter"], {"name": "alora-qkv", "activation": None})
        self.assertEqual(tokens(answers[1]), tokens(answers[2]))

    def test_the_activation_can_be_given(self):
        got = self.cached([ask(self.context), ask(self.context, "alora-qkv", activation=40),
                           ask(self.context, "alora-qkv", activation=40),
                           ask(self.context, "alora-qkv", activation=70)])
        self.assertEqual(got, [0, 40, len(self.context) - 1, 70])

    def test_the_cache_can_be_turned_off(self):
        got = self.cached([ask(self.context), ask(self.context), ask(self.context + [5])],
                          "--no-enable-prefix-caching")
        self.assertEqual(got, [0, 0, 0])

    def test_prompt_logprobs_and_echo_read_nothing(self):
        got = self.cached([ask(self.context), ask(self.context, prompt_logprobs=0),
                           ask(self.context, echo=True, logprobs=0), ask(self.context)])
        self.assertEqual(got, [0, 0, 0, len(self.context) - 1])

    def test_salts_are_apart(self):
        whole = len(self.context) - 1
        got = self.cached([ask(self.context, cache_salt="a"), ask(self.context, cache_salt="b"),
                           ask(self.context), ask(self.context, cache_salt="a"), ask(self.context, cache_salt="b")])
        self.assertEqual(got, [0, 0, 0, whole, whole])

    def test_a_prefix_that_is_being_computed_is_computed_once(self):
        prompt = mica.random_ids(self.rng, 150)
        bodies = [ask(prompt + [20 + i]) for i in range(6)]
        answers = mica.run(bodies, MODEL, ["--max-num-batched-tokens", 16, "--dtype", "float32"],
                           mica.adapters_of(MODEL))
        self.assertEqual(sorted(mica.cached_tokens(a) for a in answers), [0] + [150] * 5)

    def test_int8_rows_are_shared_like_all_others(self):
        prompt = self.context + self.invocation
        n, flags = len(self.context), ["--kv-cache-dtype", "int8"]
        for block_size in (8, 16, 64):
            got = self.cached([ask(self.context), ask(prompt, "alora-qkv"), ask(self.context[:77] + [7] * 9),
                               ask(prompt, "alora-qkv")], "--block-size", block_size, *flags)
            self.assertEqual(got, [0, n, 77, len(prompt) - 1])

    def test_choices_share_their_prompt(self):
        body = ask(self.context, max_tokens=3, n=4, temperature=1, seed=3)
        answers = served([body, body])
        self.assertEqual([mica.cached_tokens(a) for a in answers], [0, len(self.context) - 1])
        self.assertEqual([c["token_ids"] for c in answers[0]["choices"]],
                         [c["token_ids"] for c in answers[1]["choices"]])


if __name__ == "__main__":
    unittest.main()
