"""The CUDA plugin as nvcc built it, on the emulated CUDA (tests/emulated); with MICA_GPU=1 on a GPU. MICA_GPU may also
be the command that runs it there, such as "compute-sanitizer --error-exitcode 9".
"""
import json
import os
import pathlib
import re
import shlex
import subprocess
import tempfile
import time
import unittest

import mica
import processes
import test_gguf_types
import test_quantization
import test_golden

GPU = os.environ.get("MICA_GPU", "")
PLUGIN = mica.build_dir() / "libmica_cuda.so"
WITHOUT = "the plugin is not built" if not PLUGIN.exists() else ""
CUDA = ["--device", "cuda"]
TOLERANCE = 1e-4
# The device has room for 2^21 words of lists in all: 256 for each of so many sequences.
LISTS_OF_256 = ["--max-num-seqs", 8192, "--max-num-batched-tokens", 8192, "--max-model-len", 512]


def on_cuda(**settings):
    """A start of mica.run_lines: EMU_... are told to the emulator."""
    def start(command):
        prefix = [str(mica.ROOT / "tests/emulated")] if not GPU else [] if GPU == "1" else shlex.split(GPU)
        env = {**os.environ, "EMU_DEVICES": "4", **{k: str(v) for k, v in settings.items()}}
        done = subprocess.run([*prefix, *command], capture_output=True, timeout=mica.TIMEOUT_S,
                              stdin=subprocess.DEVNULL, env=env)
        return done.returncode, done.stderr.decode("utf-8", "replace")
    return start


def across(count, **settings):
    """The same as several processes; {rank} in a setting is a process's number."""
    def style(rank, processes_count, port):
        environment, flags = processes.by_torchrun(rank, processes_count, port)
        own = {k: str(v).format(rank=rank) for k, v in settings.items()}
        return {**environment, "EMU_DEVICES": "4", **own}, flags
    return processes.starter(count, style, [[str(mica.ROOT / "tests/emulated")]] * count)


def request(rng, model, **more):
    return {"model": model, "prompt": mica.random_ids(rng, rng.randrange(20, 70)), "max_tokens": 12, "temperature": 0,
            "ignore_eos": True, "logprobs": 3, "return_token_ids": True, **more}


@unittest.skipIf(WITHOUT, WITHOUT)
class Golden(test_golden.Golden):
    """The reference's log probabilities and tokens, as the CPU gives them."""

    def float32(self, name, flags=(), again=2):
        super().float32(name, [*CUDA, *flags], on_cuda(), again)

    def bfloat16(self, name):
        super().bfloat16(name, CUDA, on_cuda())

    def test_ranks(self):
        for name, ranks in (("granite", 2), ("granite", 4), ("hybrid", 3), ("llama-bias", 3)):
            with self.subTest(model=name, ranks=ranks):
                self.float32(name, ["-tp", ranks], again=1)


class Comparison(unittest.TestCase):
    def compare(self, bodies, flags, cuda_flags=(), start=None):
        folder = mica.GOLDEN / "granite"
        adapters = mica.adapters_of(folder)
        flags = ["--dtype", "float32", *flags]
        want = mica.run(bodies, folder, ["--device", "cpu", *flags], adapters)
        got = mica.run(bodies, folder, [*CUDA, *flags, *cuda_flags], adapters, start or on_cuda())
        for w, g in zip(want, got):
            self.assertEqual(g["choices"][0]["token_ids"], w["choices"][0]["token_ids"])
            for a, b in zip(mica.token_logprobs(g), mica.token_logprobs(w)):
                self.assertLessEqual(abs(a - b), TOLERANCE)
        return got

    def bodies(self, seed, count):
        rng = mica.seeded("cuda", seed)
        models = [mica.BASE, *mica.adapters_of(mica.GOLDEN / "granite")]
        return [request(rng, rng.choice(models)) for _ in range(count)]


@unittest.skipIf(WITHOUT, WITHOUT)
class LikeTheCpu(Comparison):
    def test_preempted_and_more_adapters_than_slots(self):
        self.compare(self.bodies("preempted", 12), ["--num-gpu-blocks-override", 24, "--block-size", 8,
                                                    "--max-loras", 2, "--max-num-batched-tokens", 32])

    def test_sampled(self):
        bodies = [{**b, "temperature": 0.8, "top_p": 0.9, "seed": i} for i, b in enumerate(self.bodies("sampled", 6))]
        self.compare(bodies, [])

    def test_stops_that_are_found_a_step_late(self):
        rng = mica.seeded("cuda", "stops")
        bodies = [{**b, "max_tokens": 30, "ignore_eos": False, "repetition_penalty": rng.choice([1, 1.3]),
                   "stop_token_ids": mica.random_ids(rng, 25)} for b in self.bodies("stops", 16)]
        for more in (["--max-num-seqs", 5], ["--num-gpu-blocks-override", 24, "--block-size", 8], ["-tp", 2]):
            got = self.compare(bodies, [] if "-tp" in more else more, more if "-tp" in more else ())
            ends = {(g["choices"][0]["finish_reason"], len(g["choices"][0]["token_ids"])) for g in got}
            self.assertGreater(len(ends), 3)
            self.assertEqual({reason for reason, _ in ends}, {"stop", "length"})

    def test_graphs_change_nothing(self):
        """Sizes and adapters come and go, so that steps run as they come, are captured, and are met again."""
        bodies = [{**b, "max_tokens": 4 + 5 * (i % 7)} for i, b in enumerate(self.bodies("graphs", 20))]
        folder = mica.GOLDEN / "granite"
        for flags in (["--max-num-seqs", 11], ["--max-num-seqs", 5, "-tp", 2]):
            one, other = (mica.run(bodies, folder, [*CUDA, "--batch-invariant", *flags, *more],
                                   mica.adapters_of(folder), on_cuda()) for more in ([], ["--enforce-eager"]))
            for a, b in zip(one, other):
                self.assertEqual(mica.token_logprobs(a), mica.token_logprobs(b))

    @unittest.skipIf(GPU, "the emulator's")
    def test_tokens_reach_the_ranks_of_other_processes(self):
        for ranks, count, seed in ((2, 2, "two"), (4, 2, "four"), (3, 3, "three")):
            bodies = [{**b, "temperature": 0.7 * (i % 2), "seed": i, "max_tokens": 20, "ignore_eos": False,
                       "repetition_penalty": 1.2, "stop_token_ids": mica.random_ids(mica.seeded(seed, i), 9)}
                      for i, b in enumerate(self.bodies(seed, 9))]
            self.compare(bodies, ["--max-num-seqs", 4, "--max-loras", 2], ["-tp", ranks], across(count))

    def test_penalties_biases_and_best(self):
        rng = mica.seeded("cuda", "picked")
        bodies = [{**b, "temperature": rng.choice([0, 0.7]), "seed": i, "logprobs": 5, "top_k": rng.choice([0, 9]),
                   "min_p": rng.choice([0, 0.05]), "repetition_penalty": rng.choice([1, 1.3]),
                   "presence_penalty": rng.choice([0, 0.4]), "logit_bias": {"17": 2.5, "40": -3},
                   "min_tokens": 4, "stop_token_ids": mica.random_ids(rng, 3), "prompt_logprobs": rng.choice([None, 2])}
                  for i, b in enumerate(self.bodies("picked", 8))]
        got = self.compare(bodies, [])
        self.assertTrue(any(g["choices"][0].get("prompt_logprobs") for g in got))

    def test_lists_that_only_the_host_holds(self):
        rng = mica.seeded("cuda", "lists")
        bodies = [request(rng, mica.BASE, prompt=mica.random_ids(rng, count), repetition_penalty=1.2)
                  for count in (270, 30, 30, 280, 290)]
        self.compare(bodies, LISTS_OF_256 + ["--num-gpu-blocks-override", 256])

    def test_quantised(self):
        self.compare(self.bodies("quantised", 4), ["--quantization", "q8_0"])

    def test_a_prefix_is_read_by_all(self):
        rng = mica.seeded("prefix")
        prefix = mica.random_ids(rng, 400)
        bodies = [{**b, "prompt": prefix + b["prompt"]} for b in self.bodies("prefix", 6)]
        got = self.compare([{**bodies[0], "model": mica.BASE}, *bodies], ["--max-num-seqs", 6])
        self.assertTrue(any(mica.cached_tokens(g) >= 400 for g in got))

    def test_the_same_bits_whatever_ran_beside(self):
        bodies = self.bodies("bits", 6)
        folder = mica.GOLDEN / "granite"
        for dtype in ("float32", "bfloat16"):
            runs = [mica.run(bodies, folder, [*CUDA, "--dtype", dtype, "--batch-invariant", *flags],
                             mica.adapters_of(folder), on_cuda())
                    for flags in (["--max-num-seqs", 1, "--no-enable-prefix-caching"],
                                  ["--max-num-batched-tokens", 24])]
            for one, other in zip(*runs):
                self.assertEqual(mica.token_logprobs(one), mica.token_logprobs(other))


@unittest.skipIf(WITHOUT or GPU, WITHOUT or "the emulator's")
class Products(Comparison):
    """cuBLASLt has several algorithms, which give other bits, and one of which refuses: the quickest are taken, and our
    own kernel where there are few rows."""

    def answers(self, algos, *flags):
        folder = mica.GOLDEN / "granite"
        answers = mica.run(self.bodies("products", 5), folder, [*CUDA, *flags], mica.adapters_of(folder),
                           on_cuda(EMU_ALGOS=algos))
        return [mica.token_logprobs(a) for a in answers]

    def test_like_the_cpu(self):
        start = on_cuda(EMU_ALGOS=5)
        for more in ([], ["-tp", 2], ["--enforce-eager"], ["--quantization", "q8_0"]):
            self.compare(self.bodies("timed", 14), ["--max-num-seqs", 12, *more], start=start)

    def test_quantised_weights_in_pieces(self):
        few = ["--dtype", "bfloat16", "--quantization", "q8_0", "--max-num-seqs", 4]
        for one, five in zip(*(self.answers(algos, *few) for algos in (1, 5)), strict=True):
            self.assertLess(max(abs(a - b) for a, b in zip(one, five, strict=True)), 0.1)

    def test_bits_that_are_promised_take_none_by_time(self):
        few = ["--dtype", "float32", "--max-num-seqs", 4]
        self.assertNotEqual(self.answers(1, *few), self.answers(5, *few))
        self.assertEqual(self.answers(1, "--batch-invariant", *few), self.answers(5, "--batch-invariant", *few))

    def test_what_was_timed_is_told(self):
        for expected, flags in ((r"emulated CUDA \(sm_90\), \d+ products timed in", []),
                                (r"emulated CUDA \(sm_90\)\n", ["--batch-invariant"]),
                                (r"rows, \d+ products timed in \d\.\d s, each of 2 ranks", ["-tp", 2])):
            run = mica.run_lines([], mica.GOLDEN / "granite", [*CUDA, "--max-num-seqs", 4, *flags],
                                 start=on_cuda(EMU_ALGOS=5))
            self.assertEqual(run.status, 0, run)
            self.assertRegex(run.stderr, expected)

    def test_a_step_finds_its_algorithm(self):
        """Decode steps of one row allocate nothing, and launch one graph."""
        step = Step("check").per_step({}, starter=lambda **settings: on_cuda(EMU_ALGOS=5, **settings))
        self.assertEqual((step["allocations"], step["launches"], step["graphs"]), (0, 0, 1))


@unittest.skipIf(WITHOUT or GPU, WITHOUT or "the emulator's")
class Memory(unittest.TestCase):
    """Blocks are as many as there is room for once libraries have taken theirs, which no plan knows."""
    DEVICE, LIBRARIES = 256 << 20, 40 << 20

    def start(self, *flags, starter=on_cuda, status=0, process="counts", model=mica.GOLDEN / "granite", **settings):
        """How many blocks there are, the most memory of a device, and what was said."""
        with tempfile.TemporaryDirectory() as folder:
            counts = pathlib.Path(folder) / process
            run = mica.run_lines([], model, [*CUDA, *flags],
                                 start=starter(EMU_MEMORY=self.DEVICE, EMU_COUNTS=counts, **settings))
            self.assertEqual(run.status, status, run)
            if status:
                return run
            counts = pathlib.Path(str(counts).format(rank=1))
            return int(re.search(r"(\d+) blocks of", run.stderr)[1]), json.loads(counts.read_text())["memory_most"], run

    def check(self, taken, *flags, block_bytes=1536, **settings):
        """taken: by libraries."""
        room = 0.9 * self.DEVICE
        free, most, _ = self.start(*flags, **settings)
        self.assertLess(most, room)
        fewer, most, _ = self.start(*flags, EMU_LIBRARIES=self.LIBRARIES, **settings)
        self.assertAlmostEqual((free - fewer) * block_bytes, taken, delta=3 << 20)   # what was planned in vain
        self.assertLess(most, room)
        self.assertGreater(most, room - (12 << 20), "slots of adapters take no more")

    def test_what_libraries_take(self):
        self.check(self.LIBRARIES)
        self.check(self.LIBRARIES, "--batch-invariant")
        self.check(self.LIBRARIES, EMU_ALGOS=3)

    def test_of_ranks(self):
        self.check(2 * self.LIBRARIES, "-tp", 2, block_bytes=768)

    def test_of_ranks_of_processes(self):
        self.check(2 * self.LIBRARIES, "-tp", 2, block_bytes=768, process="{rank}",
                   starter=lambda **settings: across(2, **settings))

    def test_nothing_is_left(self):
        run = self.start(status=1, EMU_LIBRARIES=160 << 20)
        self.assertIn("which leaves nothing for K/V", run.stderr)
        self.assertEqual(run.stderr.count("\n"), 1, run)

    def test_the_longest_request_follows(self):
        config = json.loads((mica.GOLDEN / "granite/config.json").read_text())
        flags = ["--load-format", "dummy", "--max-num-seqs", 4]
        with tempfile.TemporaryDirectory() as folder:
            config["max_position_embeddings"] = 2000000
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            planned, _, _ = self.start(*flags, model=folder)
            blocks, _, run = self.start(*flags, model=folder, EMU_LIBRARIES=self.LIBRARIES)
            self.assertIn(f"max-model-len is {16 * blocks}, not", run.stderr)
            run = self.start(*flags, "--max-model-len", 16 * planned, model=folder, status=1,
                             EMU_LIBRARIES=self.LIBRARIES)
            self.assertIn(f"does not fit the K/V memory, which holds {16 * blocks} tokens", run.stderr)


@unittest.skipIf(WITHOUT or GPU, WITHOUT or "of the emulator's ranks")
class Sums(Comparison):
    """Ranks whose memory all can write sum in one launch with what follows; steps of over 128 rows, and --plain,
    by NCCL. Adapters' partial sums of o and down are in the same ones."""
    PLAIN = "--disable-custom-all-reduce"

    def answers(self, bodies, *flags):
        folder = mica.GOLDEN / "granite"
        return mica.run(bodies, folder, [*CUDA, *flags], mica.adapters_of(folder), on_cuda())

    def test_fused_and_plain(self):
        for ranks in (2, 4):
            rng = mica.seeded("sums", ranks)
            bodies = [{**b, "temperature": 0.7 * (i % 2), "seed": i, "max_tokens": 4 + i % 9}
                      for i, b in enumerate(self.bodies(f"sums {ranks}", 10))]
            bodies.append(request(rng, mica.BASE, prompt=mica.random_ids(rng, 200)))
            for more in ([], [self.PLAIN], ["--enforce-eager"]):
                self.compare(bodies, ["--max-loras", 2], ["-tp", ranks, *more])
            self.compare(bodies, ["--num-gpu-blocks-override", 32, "--block-size", 8, "--max-num-batched-tokens", 32],
                         ["-tp", ranks])

    def test_the_same_bits_whatever_ran_beside_on_ranks(self):
        bodies = [{**b, "prompt": b["prompt"] * 3} for b in self.bodies("bits of ranks", 5)]
        one, other = (self.answers(bodies, "--dtype", "bfloat16", "--batch-invariant", "-tp", 2, *flags) for flags in
                      (["--max-num-seqs", 1, "--no-enable-prefix-caching"], ["--max-num-batched-tokens", 300]))
        for a, b in zip(one, other, strict=True):
            self.assertEqual(mica.token_logprobs(a), mica.token_logprobs(b))

    def test_what_is_used_is_told(self):
        for expected, flags, start in (
                ("fused sums of up to 128 rows, each of 2 ranks", [], on_cuda()),
                ("fused sums of up to 16 rows,", ["--max-num-batched-tokens", 16], on_cuda()),
                ("fused sums, each", ["--batch-invariant"], on_cuda()),
                ("sums by NCCL (as asked)", [self.PLAIN], on_cuda()),
                ("sums by NCCL (no memory that all ranks can write)", [], across(2))):
            run = mica.run_lines([], mica.GOLDEN / "granite",
                                 [*CUDA, "-tp", 2, "--num-gpu-blocks-override", 64, *flags], start=start)
            self.assertEqual(run.status, 0, run)
            self.assertIn(expected, run.stderr)


@unittest.skipIf(WITHOUT, WITHOUT)
class Codes(unittest.TestCase):
    """Quantised weights that stay codes are nearer to float32's answers than what they mean in bfloat16, where weights
    are rounded as well as x. Many rows at once are multiplied with rounded ones."""

    def logprobs(self, model, flags, start=mica.start_alone):
        rng = mica.seeded("codes")
        # One row, a few, and more than are multiplied with codes.
        bodies = [{"prompt": mica.random_ids(rng, n), "max_tokens": 8, "temperature": 0, "ignore_eos": True,
                   "prompt_logprobs": 0, "logprobs": 0} for n in (2, 40, 150)]
        answers = mica.run(bodies, model, flags, start=start)
        scored = [row for a in answers for row in a["choices"][0]["prompt_logprobs"] if row]
        return [next(iter(row.values()))["logprob"] for row in scored]

    def check(self, model, meant, *flags):
        """meant: a directory with the values of the codes"""
        exact = self.logprobs(meant, ["--device", "cpu", "--dtype", "float32"])
        self.assertGreater(max(exact) - min(exact), 1, "the model says nothing")

        def off(model, *more):
            got = self.logprobs(model, [*CUDA, "--dtype", "bfloat16", *more], on_cuda())
            return sum(abs(x - y) for x, y in zip(got, exact, strict=True))

        allowed = off(meant)
        self.assertLess(off(model, *flags), 1.2 * allowed)
        self.assertLess(off(model, *flags, "--batch-invariant"), allowed)

    def test_every_type_and_mixed_ones(self):
        kinds = [{"": kind} for kind in test_gguf_types.KINDS] + list(test_gguf_types.MIXES.values())
        for kind in kinds:
            with self.subTest(kind), tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                stored, meant = test_gguf_types.random_tensors(mica.seeded("cuda gguf", *kind.values()), kind)
                test_gguf_types.write_gguf(folder / "model.gguf", stored)
                test_gguf_types.write_directory(folder / "meant", meant)
                self.check(folder / "model.gguf", folder / "meant")

    def test_rounded_at_load(self):
        for kind in ("q8_0", "q4_0"):
            with self.subTest(kind), tempfile.TemporaryDirectory() as folder:
                meant = test_quantization.rounded_model(pathlib.Path(folder) / "meant", kind)
                self.check(test_quantization.MODEL, meant, "--quantization", kind)

    def test_on_ranks(self):
        """A request at a time: what a row is multiplied with depends on how many there are beside it."""
        for more in ([], ["--batch-invariant"]):
            flags = [*CUDA, "--dtype", "bfloat16", "--quantization", "q8_0", "--max-num-seqs", 1, *more]
            one, two = (self.logprobs(test_quantization.MODEL, [*flags, "-tp", n], on_cuda()) for n in (1, 2))
            self.assertLess(max(abs(a - b) for a, b in zip(one, two, strict=True)), 0.1, more)


@unittest.skipIf(WITHOUT or GPU, WITHOUT or "the emulator's")
class Step(unittest.TestCase):
    """What a decode step asks of cudart: one graph, one wait, one copy there, and back what was picked. While the
    host waits the next step is there already."""

    def counts(self, tokens, more, flags, starter, process):
        rng = mica.seeded("step")
        with tempfile.TemporaryDirectory() as folder:
            body = {**request(rng, mica.BASE, **more), "max_tokens": tokens}
            # One thread, since several may wait for one another's uploads while the model is loaded.
            mica.run([body], mica.GOLDEN / "granite", [*CUDA, "--threads", 1, *flags],
                     start=starter(EMU_COUNTS=pathlib.Path(folder) / process))
            return json.loads((pathlib.Path(folder) / process.format(rank=1)).read_text())

    def per_step(self, more, flags=(), starter=on_cuda, process="alone"):
        few, many = (self.counts(tokens, more, flags, starter, process) for tokens in (4, 24))
        return {name: (many[name] - few[name]) / 20 for name in few if name != "memory_most"}

    def check(self, bytes_to_host, flags=(), **more):
        self.assertEqual(self.per_step(more, flags), {"waits": 1, "left_busy": 1,
                                                      "bytes_to_host": bytes_to_host, "graphs": 1,
                                                      "copies_to_device": 1, "allocations": 0, "launches": 0})

    def test_greedy(self):
        self.check(12, logprobs=None)

    def test_a_rank_of_another_process(self):
        step = self.per_step({}, ["-tp", 2], lambda **settings: across(2, **settings), "process-{rank}")
        self.assertEqual(step, {"waits": 0, "left_busy": 0, "bytes_to_host": 0, "graphs": 1, "copies_to_device": 1,
                                "allocations": 0, "launches": 0})

    def test_with_log_probabilities(self):
        self.check(4 * 12, logprobs=3)

    def test_drawn(self):
        self.check(12, logprobs=None, temperature=0.8, top_p=0.9, top_k=20, seed=1, repetition_penalty=1.1,
                   logit_bias={"17": 1})

    def test_a_history_that_only_the_host_holds(self):
        vocab = json.loads((mica.GOLDEN / "granite/config.json").read_text())["vocab_size"]
        more = {"logprobs": None, "repetition_penalty": 1.1, "prompt": mica.random_ids(mica.seeded("long"), 300)}
        step = self.per_step(more, LISTS_OF_256 + ["--num-gpu-blocks-override", 64])
        self.assertEqual((step["waits"], step["left_busy"], step["bytes_to_host"]), (2, 0, 12 + 4 * vocab))

    def test_sums_of_ranks_take_fewer_launches(self):
        """Two sums a layer on each of two ranks: what NCCL has summed needs a launch more."""
        layers = json.loads((mica.GOLDEN / "granite/config.json").read_text())["num_hidden_layers"]
        fused, plain = (self.per_step({}, ["--enforce-eager", "-tp", 2, *more])
                        for more in ([], ["--disable-custom-all-reduce"]))
        self.assertEqual(plain["launches"] - fused["launches"], 2 * 2 * layers)

    def test_eager(self):
        step = self.per_step({}, ["--enforce-eager"])
        self.assertEqual((step["waits"], step["left_busy"], step["graphs"]), (1, 1, 0))
        self.assertGreater(step["launches"], 15)


@unittest.skipIf(WITHOUT, WITHOUT)
class Refusals(unittest.TestCase):
    def refused(self, expected, flags=CUDA, **settings):
        run = mica.run_lines([], mica.GOLDEN / "granite", flags, start=on_cuda(**settings))
        self.assertEqual(run.status, 1, run)
        self.assertFalse(run.wrote, "a run that cannot start writes nothing")
        self.assertEqual(run.stderr.strip().count("\n"), 0, run)
        self.assertIn(expected, run.stderr)

    def test_words_and_numbers(self):
        self.refused("'gpu'", ["--device", "gpu"])
        self.refused("--gpu-memory-utilization", [*CUDA, "--gpu-memory-utilization", "1.5"])

    @unittest.skipIf(GPU, "the emulator's")
    def test_what_cannot_be_used(self):
        self.refused("there is no NVIDIA driver", EMU_DRIVER=0)
        self.refused("is for CUDA 12.4, this build needs 13.0 or later", EMU_DRIVER=12040)
        self.refused("there is no CUDA device", EMU_DEVICES=0)
        self.refused("CUDA device 2 is wanted, and there are 2", [*CUDA, "-tp", 4], EMU_DEVICES=2)
        self.refused("which leaves nothing for K/V", EMU_MEMORY=16 << 20)

    @unittest.skipIf(GPU, "the emulator's")
    def test_no_memory_at_any_allocation(self):
        flags = [*CUDA, "--num-gpu-blocks-override", 32]
        for more in ([], ["--dtype", "bfloat16", "--quantization", "q8_0"]):
            for n in (1, 2, 5, 9, 14, 17, 20, 24, 29):
                with self.subTest(more, allocation=n):
                    self.refused("CUDA device 0", [*flags, *more], EMU_FAIL_ALLOC=n)

    def test_a_plugin_that_is_none(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "libmica_cuda.so"
            path.write_bytes(b"no library")
            self.refused(f"{path} can't be loaded", [*CUDA, "--plugin-dir", folder])

    def test_auto_says_which_and_why(self):
        run = mica.run_lines([], mica.GOLDEN / "granite", ["--num-gpu-blocks-override", 32])
        self.assertEqual(run.status, 0, run)
        self.assertRegex(run.stderr, "device: (cuda|cpu, since there is no NVIDIA driver)")


@unittest.skipIf(WITHOUT or GPU, WITHOUT or "the emulator's")
class Failures(unittest.TestCase):
    def fails(self, flags, expected, starter=on_cuda, model=mica.GOLDEN / "granite", **settings):
        lines = [mica.line_of("a", request(mica.seeded("failure"), mica.BASE))]
        begun = time.monotonic()
        run = mica.run_lines(lines, model, [*CUDA, *flags], start=starter(**settings))
        self.assertLess(time.monotonic() - begun, 30)
        self.assertEqual(run.status, 1, run)
        self.assertIn(expected, run.stderr)
        self.assertFalse([x for x in run.lines if x["response"]["status_code"] == 200])

    def test_a_launch(self):
        for n in (3, 12, 36, 60):   # before the first step, in steps, in a graph
            self.fails([], "CUDA device 0: ", EMU_FAIL_LAUNCH=n)

    def test_a_rank(self):
        for n in (61, 198, 233, 248, 278):   # while sums are timed, in steps, in a graph
            self.fails(["-tp", 2], "CUDA device ", EMU_FAIL_LAUNCH=n)
        self.fails(["-tp", 4], "CUDA device ", EMU_FAIL_LAUNCH=516)

    def test_a_rank_before_which_streams_are_full(self):
        """A step launches more than a stream takes, so the other rank's host would wait in a launch."""
        config = json.loads((mica.GOLDEN / "granite/config.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 150}))
            for more in ([], ["--batch-invariant"]):
                self.fails(["-tp", 2, "--load-format", "dummy", "--num-gpu-blocks-override", 64, *more], "CUDA device ",
                           model=folder, EMU_FAIL_LAUNCH=1500)

    def test_a_rank_of_another_process(self):
        self.fails(["-tp", 2], "CUDA device ", across, count=2, EMU_FAIL_LAUNCH="{rank}0")


if __name__ == "__main__":
    unittest.main()
