"""llama-server for the time of a setting's cases, and what is asked of it over HTTP."""
import concurrent.futures
import http.client
import json
import random
import socket
import time

import peer_cases
import peer_shape as shape
from peer_console import POLL_S, Failed

START_S = 300


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, job, program):
        self.job, self.port, self.rng = job, free_port(), random.Random(2)
        folder = job.folder
        slots = max([peer_cases.BATCH.get(c, 1) for c in job.cases])
        length = shape.CONTEXT + 256 if job.setting == "context" else shape.PREFILL + 64
        adapters = {"base": [], "adapters": [folder / f"lora{i}.gguf" for i in range(shape.ADAPTERS)],
                    "context": [folder / "lora0.gguf", folder / "alora.gguf"]}[job.setting]
        threads = job.settings.threads
        self.adapters = len(adapters)
        command = [program, "--model", folder / "model.gguf", "--threads", threads, "--threads-batch", threads,
                   "--parallel", slots, "--ctx-size", length * slots, "--cache-ram", 0, "--host", "127.0.0.1",
                   "--port", self.port]
        if adapters:
            command += ["--lora-init-without-apply", "--lora", ",".join(map(str, adapters))]
        self.process = job.start(command)

    def __enter__(self):
        begun = time.monotonic()
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() - begun > START_S:
                self.__exit__()
                raise Failed(f"llama-server did not start: see {self.job.log}")
            self.job.tick(self.process)
            time.sleep(POLL_S)
        return self

    def __exit__(self, *_):
        self.job.tick(self.process)
        self.process.kill()
        self.process.wait()

    def is_up(self):
        try:
            return self.ask("GET", "/health", None)[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, prompt, tokens, adapter, cached):
        # Adapters that a request does not name are at scale 1 in it, whatever the server was told at its start.
        lora = [{"id": i, "scale": float(i == adapter)} for i in range(self.adapters)]
        status, text = self.ask("POST", "/completion", {
            "prompt": prompt, "n_predict": tokens, "samplers": ["top_k"], "top_k": 1, "ignore_eos": True,
            "cache_prompt": cached, "lora": lora})
        if status != 200 or json.loads(text)["tokens_predicted"] != tokens:
            raise Failed(f"llama-server answered with status {status}: {text[:200].decode(errors='replace')}")

    def seconds(self, prompts, tokens, adapters=None, cached=False):
        """Of one batch, until every answer has `tokens` tokens; adapters: one a prompt, by number."""
        adapters = adapters or [None] * len(prompts)
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            begun = time.perf_counter()
            asked = [pool.submit(self.complete, p, tokens, a, cached) for p, a in zip(prompts, adapters)]
            concurrent.futures.wait(asked)
            elapsed = time.perf_counter() - begun
        for a in asked:
            a.result()
        self.job.tick(self.process)
        return elapsed

    def fresh(self, count):
        return [self.rng.randrange(shape.FIRST_ID, shape.VOCAB) for _ in range(count)]

    def decode(self, batch, adapters):
        dealt = [i % adapters for i in range(batch)] if adapters else None
        prompts = lambda: [self.fresh(shape.PROMPT) for _ in range(batch)]
        first = self.seconds(prompts(), 1, dealt)
        return batch * shape.STEPS / (self.seconds(prompts(), 1 + shape.STEPS, dealt) - first)

    def first_token(self, adapter):
        context = self.fresh(shape.CONTEXT)
        self.seconds([context], 1, cached=True)
        return 1e3 * self.seconds([context + shape.INVOCATION_IDS], 1, [adapter], cached=True)

    def measure(self, case):
        if case == "prefill":
            return shape.PREFILL / self.seconds([self.fresh(shape.PREFILL)], 1)
        if case in peer_cases.BATCH:
            return self.decode(peer_cases.BATCH[case], peer_cases.adapters_of(case))
        return self.first_token(int(case == "ttft_alora"))
