"""Request fields, refusals and the batch file itself."""
import json
import subprocess
import unittest

import mica

MODEL = mica.GOLDEN / "llama-bias"
GRANITE = mica.GOLDEN / "granite"
PROMPT = "<|user|>How many blocks?<|assistant|>"


def ask(prompt=PROMPT, **more):
    return {"model": mica.BASE, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, **more}


def run(bodies, model=MODEL, flags=()):
    return mica.run(bodies, model, ["--dtype", "float32", *flags], mica.adapters_of(model))


def choice(answer, index=0):
    return answer["choices"][index]


class Fields(unittest.TestCase):
    def test_defaults_are_those_of_openai_completions(self):
        answer = run([{"model": mica.BASE, "prompt": PROMPT}])[0]
        self.assertLessEqual(answer["usage"]["completion_tokens"], 16)
        self.assertEqual(answer["object"], "text_completion")
        self.assertEqual(answer["model"], mica.BASE)
        self.assertIsNone(choice(answer)["logprobs"])
        usage = answer["usage"]
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])

    def test_null_and_inert_fields_are_as_if_absent(self):
        bodies = [ask(), ask(stop=None, seed=None, logit_bias=None, logprobs=None, user="me", stream=False,
                             best_of=1, top_p=None, n=None, suffix=None)]
        first, second = run(bodies)
        self.assertEqual(choice(first), choice(second))

    def test_a_list_of_prompts_gives_a_choice_each(self):
        lists = [[PROMPT, "tell me"], [[5, 6, 7], [8, 9]]]
        for prompts in lists:
            together = run([ask(prompts, n=2, temperature=1, seed=5)])[0]
            alone = run([ask(p, n=2, temperature=1, seed=5) for p in prompts])
            self.assertEqual([c["index"] for c in together["choices"]], [0, 1, 2, 3])
            self.assertEqual(choice(together)["token_ids"], choice(alone[0])["token_ids"])
            self.assertEqual(choice(together, 1)["token_ids"], choice(alone[0], 1)["token_ids"])
            self.assertEqual(together["usage"]["completion_tokens"], 32)

    def test_text_is_the_decoding_of_the_tokens(self):
        for body in (ask(max_tokens=40), ask(max_tokens=40, skip_special_tokens=False)):
            answer = run([{**body, "logprobs": 0, "temperature": 2, "seed": 4}])[0]
            self.assertEqual(len(choice(answer)["token_ids"]), 40)
            self.assertEqual(len(choice(answer)["logprobs"]["tokens"]), 40)
            self.assertIsInstance(choice(answer)["text"], str)

    def test_stop_strings_end_the_text_even_across_token_boundaries(self):
        whole = choice(run([ask(max_tokens=60, temperature=1.5, seed=11)])[0])["text"]
        clean = [i for i in range(8, len(whole) - 6) if "\ufffd" not in whole[i - 4:i + 4] and whole[i:i + 3].strip()]
        self.assertTrue(clean)
        for at in clean[:12]:
            stop = whole[at:at + 3]
            first = whole.index(stop)
            bodies = [ask(max_tokens=60, temperature=1.5, seed=11, stop=s, include_stop_str_in_output=kept)
                      for kept in (False, True) for s in (stop, ["\u4e16 never", stop])]
            for body, answer in zip(bodies, run(bodies)):
                self.assertEqual(choice(answer)["finish_reason"], "stop")
                self.assertEqual(choice(answer)["stop_reason"], stop)
                kept = len(stop) if body["include_stop_str_in_output"] else 0
                self.assertEqual(choice(answer)["text"], whole[:first + kept])

    def test_stop_token_ids_and_min_tokens(self):
        tokens = choice(run([ask(temperature=1, seed=2)])[0])["token_ids"]
        stop = tokens[3]
        first = tokens.index(stop)
        stopped, later = run([ask(temperature=1, seed=2, stop_token_ids=[stop]),
                              ask(temperature=1, seed=2, stop_token_ids=[stop], min_tokens=first + 2)])
        self.assertEqual(choice(stopped)["finish_reason"], "stop")
        self.assertEqual(choice(stopped)["stop_reason"], stop)
        self.assertEqual(choice(stopped)["token_ids"], tokens[:first + 1])
        self.assertGreater(len(choice(later)["token_ids"]), first + 1)
        self.assertNotIn(stop, choice(later)["token_ids"][:first + 1])

    def test_eos_ends_unless_ignored(self):
        eos = json.loads((MODEL / "generation_config.json").read_text())["eos_token_id"][1]
        bias = {str(eos): 100}
        ended, ignored = run([ask(ignore_eos=False, logit_bias=bias), ask(logit_bias=bias)])
        self.assertEqual(choice(ended)["finish_reason"], "stop")
        self.assertIsNone(choice(ended)["stop_reason"])
        self.assertEqual(ended["usage"]["completion_tokens"], 1)
        self.assertEqual(choice(ignored)["token_ids"], [eos] * 8)

    def test_logit_bias_moves_the_choice_and_not_the_log_probabilities(self):
        plain, biased = run([ask(logprobs=5, return_tokens_as_token_ids=True),
                             ask(logprobs=5, return_tokens_as_token_ids=True, logit_bias={"33": 100}, max_tokens=1)])
        self.assertEqual(choice(biased)["token_ids"], [33])
        top = choice(plain)["logprobs"]["top_logprobs"][0]
        for name, value in choice(biased)["logprobs"]["top_logprobs"][0].items():
            self.assertEqual(value, top.get(name, value))

    def test_penalties_keep_tokens_from_coming_again(self):
        free, frequency, presence, repetition = run([
            ask(max_tokens=30), ask(max_tokens=30, frequency_penalty=2.0), ask(max_tokens=30, presence_penalty=2.0),
            ask(max_tokens=30, repetition_penalty=1.9)])
        distinct = [len(set(choice(a)["token_ids"])) for a in (free, frequency, presence, repetition)]
        self.assertTrue(all(d >= distinct[0] for d in distinct), distinct)
        self.assertGreater(distinct[1], distinct[0])

    def test_top_k_of_one_and_a_tiny_top_p_are_greedy(self):
        answers = run([ask(), ask(temperature=1, top_k=1), ask(temperature=1, top_p=1e-6),
                       ask(temperature=1, min_p=1.0), ask(temperature=1e-3)])
        for answer in answers[1:4]:
            self.assertEqual(choice(answer)["token_ids"], choice(answers[0])["token_ids"])

    def test_a_seed_repeats_and_choices_differ(self):
        body = ask(temperature=1.5, seed=9, n=3, max_tokens=20)
        first, second, other = run([body, body, {**body, "seed": 10}])
        ids = [c["token_ids"] for c in first["choices"]]
        self.assertEqual(ids, [c["token_ids"] for c in second["choices"]])
        self.assertNotEqual(ids[0], ids[1])
        self.assertNotEqual(ids, [c["token_ids"] for c in other["choices"]])

    def test_without_a_seed_the_custom_id_and_the_flag_decide(self):
        lines = [mica.line_of(name, ask(temperature=1.5, max_tokens=20)) for name in ("a", "b")]
        runs = [mica.run_lines(lines, MODEL, ["--dtype", "float32", "--seed", seed]).by_id() for seed in (0, 0, 1)]
        ids = [{k: v["body"]["choices"][0]["token_ids"] for k, v in r.items()} for r in runs]
        self.assertEqual(ids[0], ids[1])
        self.assertNotEqual(ids[0]["a"], ids[0]["b"])
        self.assertNotEqual(ids[0], ids[2])

    def test_generate_prints_the_text_of_a_batch_line_with_the_same_fields(self):
        text = choice(run([ask(temperature=1.5, seed=9, max_tokens=20)], GRANITE)[0])["text"]
        command = [mica.build_dir() / "mica", "generate", "--model", GRANITE, "--dtype", "float32", "-p", PROMPT,
                   "--temperature", "1.5", "--seed", "9", "--max-tokens", "20", "--ignore-eos"]
        done = subprocess.run(command, capture_output=True, check=True)
        self.assertEqual(done.stdout.decode(), text)

    def test_sampling_follows_the_distribution(self):
        answer = run([ask(prompt=[50], temperature=1, n=128, seed=1, max_tokens=1, logprobs=5,
                          return_tokens_as_token_ids=True)], flags=["--max-num-seqs", 128])[0]
        best, value = max(choice(answer)["logprobs"]["top_logprobs"][0].items(), key=lambda x: x[1])
        token = int(best.split(":")[1])
        got = sum(c["token_ids"] == [token] for c in answer["choices"]) / 128
        self.assertAlmostEqual(got, 2.718281828 ** value, delta=0.15)

    def test_echo_puts_the_prompt_first(self):
        plain, echo = run([ask(PROMPT, prompt_logprobs=2), ask(PROMPT, echo=True, logprobs=2)])
        count = plain["usage"]["prompt_tokens"]
        self.assertTrue(choice(echo)["text"].endswith(choice(plain)["text"]))
        logprobs = choice(echo)["logprobs"]
        self.assertEqual(len(logprobs["tokens"]), count + 8)
        self.assertIsNone(logprobs["token_logprobs"][0])
        self.assertIsNone(logprobs["top_logprobs"][0])
        rows = choice(plain)["prompt_logprobs"]
        for i in range(1, count):
            want = rows[i][str(choice(plain)["prompt_token_ids"][i])]["logprob"]
            self.assertEqual(logprobs["token_logprobs"][i], want)
        self.assertEqual(logprobs["text_offset"][0], 0)

    def test_add_special_tokens(self):
        with_bos, without = run([ask(), ask(add_special_tokens=False)])
        self.assertEqual(choice(with_bos)["prompt_token_ids"], [1, *choice(without)["prompt_token_ids"]])

    def test_ids_of_the_model_beyond_the_tokenizer_are_empty_text(self):
        vocab = json.loads((GRANITE / "config.json").read_text())["vocab_size"]
        answer = run([ask([5, 6, vocab - 1], logit_bias={str(vocab - 1): 100})], GRANITE)[0]
        self.assertEqual(choice(answer)["token_ids"], [vocab - 1] * 8)
        self.assertEqual(choice(answer)["text"], "")

    def test_require_activation(self):
        lines = [mica.line_of("yes", ask("tell me", model="alora-qkv", require_activation=True)),
                 mica.line_of("no", ask("tell me", model="alora-qkv")),
                 mica.line_of("given", ask("tell me", model="alora-qkv", require_activation=True, activation=0))]
        got = mica.run_lines(lines, GRANITE, [], mica.adapters_of(GRANITE)).by_id()
        self.assertEqual([got[k]["status_code"] for k in ("yes", "no", "given")], [400, 200, 200])
        self.assertEqual(got["yes"]["body"]["error"]["param"], "require_activation")
        every = mica.run_lines(lines[1:], GRANITE, ["--require-activation"], mica.adapters_of(GRANITE)).by_id()
        self.assertEqual([every[k]["status_code"] for k in ("no", "given")], [400, 200])


BAD = [   # body, the field named in the answer, status
    ({"max_tokens": 0}, "max_tokens", 400), ({"max_tokens": "3"}, "max_tokens", 400),
    ({"max_tokens": 1.5}, "max_tokens", 400), ({"max_tokens": 10 ** 12}, "max_tokens", 400),
    ({"max_tokens": 511}, "max_tokens", 400), ({"top_p": 0}, "top_p", 400), ({"top_p": 1.01}, "top_p", 400),
    ({"temperature": -1}, "temperature", 400), ({"temperature": "hot"}, "temperature", 400),
    ({"top_k": -2}, "top_k", 400), ({"min_p": 2}, "min_p", 400), ({"n": 0}, "n", 400),
    ({"n": 2}, "n", 400), ({"logprobs": 21}, "logprobs", 400), ({"logprobs": True}, "logprobs", 400),
    ({"prompt_logprobs": -3}, "prompt_logprobs", 400), ({"frequency_penalty": 3}, "frequency_penalty", 400),
    ({"presence_penalty": -2.5}, "presence_penalty", 400), ({"repetition_penalty": 0}, "repetition_penalty", 400),
    ({"logit_bias": {"291": 1}}, "logit_bias", 400), ({"logit_bias": {"x": 1}}, "logit_bias", 400),
    ({"logit_bias": []}, "logit_bias", 400), ({"stop": 3}, "stop", 400), ({"stop": [""]}, "stop", 400),
    ({"stop_token_ids": [-1]}, "stop_token_ids", 400), ({"stop_token_ids": "a"}, "stop_token_ids", 400),
    ({"min_tokens": -1}, "min_tokens", 400), ({"min_tokens": 9}, "min_tokens", 400),
    ({"prompt": 3}, "prompt", 400), ({"prompt": []}, "prompt", 400), ({"prompt": ""}, None, 200),
    ({"prompt": [0, 291]}, "prompt", 400), ({"prompt": [-1]}, "prompt", 400), ({"prompt": [1.5]}, "prompt", 400),
    ({"prompt": [5] * 600}, "prompt", 400), ({"prompt": None}, "prompt", 400), ({"nonsense": 1}, "nonsense", 400),
    ({"activation": 1}, "activation", 400), ({"require_activation": 1}, "require_activation", 400),
    ({"model": "alora-all", "activation": 10 ** 6}, "activation", 400),
    ({"model": "lora-qkv", "activation": 1}, "activation", 400), ({"cache_salt": 5}, "cache_salt", 400),
    ({"seed": "x"}, "seed", 400), ({"ignore_eos": 1}, "ignore_eos", 400), ({"echo": "yes"}, "echo", 400),
    ({"priority": "high"}, "priority", 400), ({"model": "nobody"}, "model", 404), ({"model": 7}, "model", 400),
    ({"stream": True}, "stream", 400), ({"best_of": 2}, "best_of", 400), ({"user": "me"}, None, 200),
]


class Refusals(unittest.TestCase):
    def check_error(self, answer, status, param):
        self.assertEqual(answer["status_code"], status, answer)
        error = answer["body"]["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(0 < len(error["message"]) <= 600 and "\n" not in error["message"], error)
        self.assertEqual(error["param"], param, error)

    def test_every_bad_value_is_named_and_the_others_still_run(self):
        lines = []
        for i, (more, _, _) in enumerate(BAD):
            lines += [mica.line_of(f"bad{i}", ask(**more)), mica.line_of(f"good{i}", ask())]
        result = mica.run_lines(lines, MODEL, [], mica.adapters_of(MODEL))
        self.assertEqual(result.status, 0, str(result))
        answers = result.by_id()
        self.assertEqual(len(answers), 2 * len(BAD))
        for i, (more, param, status) in enumerate(BAD):
            with self.subTest(more if len(str(more)) < 80 else param):
                if status == 200:
                    self.assertEqual(answers[f"bad{i}"]["status_code"], 200, answers[f"bad{i}"])
                else:
                    self.check_error(answers[f"bad{i}"], status, param)
            self.assertEqual(answers[f"good{i}"]["status_code"], 200)

    def test_urls_and_methods(self):
        lines = [mica.line_of("url", ask(), "/v1/nothing"),
                 json.dumps({"custom_id": "method", "method": "GET", "url": "/v1/completions", "body": ask()}),
                 json.dumps({"custom_id": "body", "method": "POST", "url": "/v1/completions", "body": 3})]
        answers = mica.run_lines(lines, MODEL).by_id()
        self.assertEqual(answers["url"]["status_code"], 404)
        self.assertEqual(answers["method"]["status_code"], 400)
        self.assertEqual(answers["body"]["status_code"], 400)

    def test_lines_that_are_no_request_are_answered_with_their_number(self):
        good = mica.line_of("good", ask())
        bad = [b"{\n", b"[1,2]\n", b'{"custom_id": "x", "body": "\\ud800"}\n', b'{"custom_id": "\xff"}\n',
               b'{"method": "POST", "url": "/v1/completions", "body": {}}\n', b"[" * 5000 + b"\n",
               b'{"custom_id": 5, "method": "POST", "url": "/v1/completions", "body": {}}\n',
               b'{"custom_id": "twice", "custom_id": "twice"}\n']
        result = mica.run_lines([good, "", *bad, "   ", mica.line_of("last", ask())], MODEL)
        self.assertEqual(result.status, 0, str(result))
        self.assertEqual(len(result.lines), len(bad) + 2, result.lines)
        served = {x["custom_id"] for x in result.lines if x["response"]["status_code"] == 200}
        self.assertEqual(served, {"good", "last"})
        messages = [x["response"]["body"]["error"]["message"] for x in result.lines
                    if x["response"]["status_code"] == 400]
        for number in range(3, 3 + len(bad) - 1):
            self.assertTrue(any(f"line {number}" in m for m in messages), (number, messages))

    def test_a_custom_id_is_served_once(self):
        lines = [mica.line_of("a", ask()), mica.line_of("a", ask()), mica.line_of("b", ask())]
        result = mica.run_lines(lines, MODEL)
        got = sorted((x["custom_id"], x["response"]["status_code"]) for x in result.lines)
        self.assertEqual(got, [("a", 200), ("a", 400), ("b", 200)])

    def test_answers_have_the_envelope_of_openai(self):
        line = mica.run_lines([mica.line_of("a", ask())], MODEL).lines[0]
        self.assertEqual(set(line), {"id", "custom_id", "response", "error"})
        self.assertEqual(set(line["response"]), {"status_code", "request_id", "body"})
        self.assertIsNone(line["error"])


class Files(unittest.TestCase):
    def refused(self, *args, **kwargs):
        result = mica.run_lines(*args, **kwargs)
        self.assertEqual(result.status, 1, str(result))
        lines = [x for x in result.stderr.splitlines() if x.strip()]
        self.assertTrue(lines and len(lines[-1]) <= 700, result.stderr)
        return result, lines[-1]

    def test_models_and_adapters_that_cannot_be_read(self):
        line = mica.line_of("a", ask())
        result, message = self.refused([line], mica.GOLDEN / "nothing")
        self.assertFalse(result.wrote)
        self.assertIn("nothing", message)
        result, message = self.refused([line], MODEL, [], {"x": mica.GOLDEN / "granite/adapters/lora-qkv"})
        self.assertFalse(result.wrote)
        self.refused([line], MODEL, ["--max-modellen", 5])
        self.refused([line], MODEL, ["--block-size", 12])
        self.refused([line], MODEL, ["--max-model-len", 100000, "--num-gpu-blocks-override", 4])

    def test_resume_does_what_has_no_good_line_yet(self):
        lines = [mica.line_of(str(i), ask()) for i in range(4)]
        whole = {x["custom_id"]: x for x in mica.run_lines(lines, MODEL).lines}
        bad = {**whole["1"], "response": {"status_code": 400, "request_id": "r", "body": {"error": {}}}}
        before = json.dumps(whole["0"]) + "\n" + json.dumps(bad) + "\n" + json.dumps(whole["2"])[:50]
        result = mica.run_lines(lines, MODEL, ["--resume"], before=before.encode())
        self.assertEqual(result.status, 0, str(result))
        served = [x["custom_id"] for x in result.lines if x["response"]["status_code"] == 200]
        self.assertEqual(sorted(served), ["0", "1", "2", "3"])
        for line in result.lines:
            if line["response"]["status_code"] == 200:
                self.assertEqual(line["response"]["body"]["choices"],
                                 whole[line["custom_id"]]["response"]["body"]["choices"])


if __name__ == "__main__":
    unittest.main()
