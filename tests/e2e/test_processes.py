"""A model in parts over several processes: the same answers, however they were started; and what ends them."""
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import mica
import processes
import test_golden

GRANITE = mica.GOLDEN / "granite"
LINE_S = 12        # a death ends everyone well within it
SILENCE_S = 40     # a rank that hangs: 15 s, and room for a busy machine


class Answers(test_golden.Comparison):
    def test_the_reference_s_answers_by_hand(self):
        for name in mica.golden_models():
            with self.subTest(name):
                self.float32(name, ["-tp", 2], processes.starter(2))

    def test_the_reference_s_answers_on_two_ranks_each(self):
        for name in ("granite", "hybrid", "llama-bias"):
            with self.subTest(name):
                self.float32(name, ["-tp", 4, "--max-loras", 1], processes.starter(2, processes.by_torchrun))

    def test_the_reference_s_answers_from_three_processes(self):
        for name in ("granite-odd", "llama-linear"):
            with self.subTest(name):
                self.float32(name, ["-tp", 3], processes.starter(3, processes.by_srun))

    def test_the_reference_s_answers_under_mpirun(self):
        self.float32("granite", ["-tp", 2], processes.mpirun(2))
        self.float32("granite", ["-tp", 4], processes.mpirun(4))

    def test_processes_give_the_bits_of_threads(self):
        """With a rank in each process sums have the order that they have in one."""
        bodies = [test_golden.body_of(c) for c in mica.cases_of(GRANITE)]
        adapters, flags = mica.adapters_of(GRANITE), ["-tp", 4, "--max-loras", 2, "--max-num-batched-tokens", 40]
        inside = mica.run(bodies, GRANITE, flags, adapters)
        across = mica.run(bodies, GRANITE, flags, adapters, processes.starter(4, processes.by_pmi))
        for a, b in zip(inside, across, strict=True):
            self.assertEqual(a["choices"], b["choices"])

    def test_a_stranger_at_the_door_is_turned_away(self):
        with tempfile.TemporaryDirectory() as folder:
            command = generate_long(folder, 4)
            strangers = []

            def style(rank, count, port):
                if rank == 1:   # process 0 listens by now, or soon
                    strangers.append(threading.Thread(target=knock, args=(port,)))
                    strangers[0].start()
                    strangers[0].join()
                return processes.by_hand(rank, count, port)
            p = processes.Processes(command, 2, style)
            self.assertEqual(p.wait(60), [0, 0], p.said(0))


def knock(port):
    for junk in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(64), b""):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as s:
                s.sendall(junk)
                break
            time.sleep(0.05)


def generate_long(folder, tokens):
    """A command whose steps go on for as long as a test may want."""
    source = os.path.join(folder, "in.jsonl")
    with open(source, "w", encoding="utf-8") as f:
        for i in range(4):
            f.write(mica.line_of(str(i), {"model": mica.BASE, "prompt": [5, 6, 7 + i], "max_tokens": tokens,
                                          "temperature": 0, "ignore_eos": True}) + "\n")
    return [mica.build_dir() / "mica", "run-batch", "-i", source, "-o", os.path.join(folder, "out.jsonl"), "--model",
            GRANITE, "--served-model-name", mica.BASE, "--num-gpu-blocks-override", 256, "-tp", 2]


class Ends(unittest.TestCase):
    def started(self, folder, count=2):
        command = generate_long(folder, 500)
        command[-1] = count
        # A pipe as the input: the run is never over by itself.
        command[command.index("-i") + 1] = os.path.join(folder, "pipe")
        os.mkfifo(os.path.join(folder, "pipe"))
        p = processes.Processes(command, count)
        pipe = open(os.path.join(folder, "pipe"), "wb", buffering=0)  # noqa: SIM115
        self.addCleanup(pipe.close)
        with open(os.path.join(folder, "in.jsonl"), "rb") as f:
            pipe.write(f.read())
        until = time.monotonic() + 60
        while not os.path.exists(os.path.join(folder, "out.jsonl")):
            self.assertLess(time.monotonic(), until, p.said(0))
            time.sleep(0.01)
        return p

    def ends(self, p, victim, expected, seconds, but=()):
        began = time.monotonic()
        statuses = p.wait(seconds)
        self.assertLess(time.monotonic() - began, seconds)
        for rank, status in enumerate(statuses):
            if rank == victim or rank in but:
                continue
            self.assertEqual(status, 1, f"process {rank}: {p.said(rank)}")
            lines = [line for line in p.said(rank).splitlines() if line.startswith("mica run-batch: ")]
            self.assertEqual(len(lines), 1, p.said(rank))
            self.assertIn(expected, lines[0])

    def test_a_rank_that_is_killed_ends_all_others(self):
        for victim in (1, 2):
            with self.subTest(victim=victim), tempfile.TemporaryDirectory() as folder:
                p = self.started(folder, 3)
                p.children[victim].kill()
                self.ends(p, victim, f"rank {victim} (process {victim} at 127.0.0.1): died", LINE_S)

    def test_rank_0_that_is_killed_ends_the_others(self):
        with tempfile.TemporaryDirectory() as folder:
            p = self.started(folder, 3)
            p.children[0].kill()
            self.ends(p, 0, "rank 0 (process 0 at 127.0.0.1): died", LINE_S)

    def test_a_rank_that_hangs_ends_all_others(self):
        with tempfile.TemporaryDirectory() as folder:
            p = self.started(folder, 3)
            p.children[1].send_signal(signal.SIGSTOP)
            began = time.monotonic()
            while p.children[0].poll() is None or p.children[2].poll() is None:
                self.assertLess(time.monotonic() - began, SILENCE_S, p.said(0))
                time.sleep(0.1)
            p.children[1].kill()
            self.ends(p, 1, "rank 1 (process 1 at 127.0.0.1)", 10)
            self.assertIn("hangs", p.said(0))

    def test_what_keeps_one_from_beginning_is_told_to_all(self):
        with tempfile.TemporaryDirectory() as folder:
            command = generate_long(folder, 4)

            def style(rank, count, port):
                env, flags = processes.by_hand(rank, count, port)
                return env, flags + (["--model", "/nowhere"] if rank == 1 else [])
            p = processes.Processes(command, 2, style)
            self.assertEqual(p.wait(60), [1, 1])
            self.assertIn("/nowhere: No such file", p.said(0))
            self.assertFalse(os.path.exists(os.path.join(folder, "out.jsonl")))

    def test_flags_that_differ_are_refused(self):
        self.refused_if_second_has(["--block-size", 32])
        self.refused_if_second_has(["--batch-invariant"])

    @unittest.skipIf(not (mica.build_dir() / "libmica_cuda.so").exists(), "the plugin is not built")
    def test_devices_that_differ_are_refused(self):
        self.refused_if_second_has(["--device", "cuda"], [[], [mica.ROOT / "tests/emulated"]])

    def refused_if_second_has(self, more, prefixes=None):
        with tempfile.TemporaryDirectory() as folder:
            command = generate_long(folder, 4)

            def style(rank, count, port):
                env, flags = processes.by_hand(rank, count, port)
                return env, flags + (more if rank == 1 else [])
            p = processes.Processes(command, 2, style, prefixes)
            self.assertEqual(p.wait(60), [1, 1])
            for rank in (0, 1):
                self.assertIn("started with different flags, models or devices", p.said(rank))

    def test_ranks_that_do_not_divide_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            command = generate_long(folder, 4)
            command[-1] = 3
            p = processes.Processes(command, 2, processes.by_torchrun)
            self.assertEqual(p.wait(60), [1, 1])
            self.assertIn("--tensor-parallel-size is 3: torchrun says that there are 2 processes", p.said(0))


def namespaces(names):
    """Two hosts in one: network namespaces with a cable between them. -> None where that is not permitted."""
    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    a, b = names
    if not ip("netns", "add", a):
        return None
    done = ip("netns", "add", b) and ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)
    for name, address in zip(names, ("10.77.0.1/24", "10.77.0.2/24")):
        done = done and ip("-n", name, "addr", "add", address, "dev", name)
        done = done and ip("-n", name, "link", "set", name, "up") and ip("-n", name, "link", "set", "lo", "up")
    return ip if done else None


class TwoHosts(test_golden.Comparison):
    def setUp(self):
        self.names = [f"mica{os.getpid() % 100000}{i}" for i in "ab"]
        ip = namespaces(self.names)
        for name in self.names:
            self.addCleanup(lambda name=name: subprocess.run(["ip", "netns", "del", name], capture_output=True,
                                                             check=False))
        if not ip:
            self.skipTest("network namespaces are not permitted here")
        self.prefixes = [["ip", "netns", "exec", name] for name in self.names]

    @staticmethod
    def style(rank, count, port):
        return {}, ["--nnodes", count, "--node-rank", rank, "--master-addr", "10.77.0.1", "--master-port", port]

    def test_two_hosts_answer_like_one(self):
        start = processes.starter(2, self.style, self.prefixes)
        for name in ("granite", "hybrid"):
            self.float32(name, ["-tp", 4], start)


if __name__ == "__main__":
    unittest.main()
