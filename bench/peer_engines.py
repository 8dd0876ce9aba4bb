"""One process of an engine, from start to end: the figures of the cases it was started for, and its peak memory."""
import json
import os
import statistics
import subprocess

import peer_cases
import peer_llama
import peer_shape as shape
from peer_console import POLL_S, Failed
from peer_install import HOME, ROOT

KV_GIB = 1                  # enough for every case at 40 layers
RELEASE = ROOT / "build/release"


def peak_bytes(pid):
    """Resident, at most so far; 0 where the process has gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return next((1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


class Job:
    """What one process is started for. settings: the command line's layers, threads and iterations."""

    def __init__(self, engine, setting, cases, settings, folder, progress):
        self.engine, self.setting, self.cases = engine, setting, cases
        self.settings, self.folder, self.progress = settings, folder, progress
        self.log, self.peak = HOME / f"{engine}.log", 0

    def start(self, command, env=None):
        with open(self.log, "a", encoding="utf-8") as out:
            print("$", *command, file=out, flush=True)
            return subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out,
                                    stderr=subprocess.STDOUT, env=env)

    def tick(self, process):
        """Called again and again while it works."""
        self.peak = max(self.peak, peak_bytes(process.pid))
        self.progress.draw()

    def finish(self, process):
        try:
            while process.poll() is None:
                self.tick(process)
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise Failed(f"{peer_cases.ENGINES[self.engine]} ended with status {process.returncode}: see {self.log}")


def mica_command(job, case, out):
    s = job.settings
    batch, adapters = peer_cases.BATCH.get(case, 1), peer_cases.adapters_of(case)
    command = [RELEASE / "mica", "bench", "latency", "--model", job.folder, "--load-format", "dummy", "--threads",
               s.threads, "--kv-cache-memory-bytes", f"{KV_GIB}G", "--batch-size", batch, "--output-json", out]
    if job.setting == "context":
        kind = "alora" if case == "ttft_alora" else "lora"
        command += ["--prefix-len", shape.CONTEXT, "--input-len", shape.INVOCATION, "--output-len", 1,
                    "--num-iters", 1, "--synthetic-lora-kind", kind]
    elif case == "prefill":
        command += ["--input-len", shape.PREFILL, "--output-len", 1, "--num-iters", s.iterations]
    else:
        command += ["--input-len", shape.PROMPT, "--output-len", 1 + shape.STEPS, "--num-iters", s.iterations]
    if adapters:
        command += ["--synthetic-loras", adapters, "--synthetic-lora-rank", shape.RANK]
    return command


def mica(job):
    """One process a case: that is how `mica bench latency` works."""
    out, values = HOME / "mica.json", {}
    for case in job.cases:
        job.finish(job.start(mica_command(job, case, out)))
        with open(out, encoding="utf-8") as f:
            figures = json.load(f)
        values[case] = {"base": figures["prefill_tokens_per_s"], "context": figures["ttft_ms"]["p50"]}[job.setting] \
            if case not in peer_cases.BATCH else figures["decode_tokens_per_s"]
        job.peak = max(job.peak, figures["peak_rss_bytes"])
    return values


def vllm_environment(threads):
    folder = HOME / "vllm"
    preload = [str(p) for p in (folder / "lib").glob("libiomp5.so")]
    preload += [line.split()[-1] for line in subprocess.run(
        ["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout.splitlines()
        if "libtcmalloc_minimal.so.4" in line][:1]
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {**os.environ, "LD_PRELOAD": ":".join(preload), "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB), "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}


def vllm(job):
    """No cases: compiles."""
    out, s = HOME / "vllm.jsonl", job.settings
    worker = ROOT / "bench/peer_vllm.py"
    job.finish(job.start([HOME / "vllm/bin/python", worker, job.folder, job.setting, s.iterations, out, *job.cases],
                         vllm_environment(s.threads)))
    with open(out, encoding="utf-8") as f:
        return {r["case"]: r["value"] for r in map(json.loads, f)}


def llama(job):
    s = job.settings
    with peer_llama.Server(job, HOME / "llama/build/bin/llama-server") as server:
        values = {}
        for case in job.cases:
            count = 1 if job.setting == "context" else s.iterations
            if job.setting != "context":
                server.measure(case)      # warms up
            values[case] = statistics.median(server.measure(case) for _ in range(count))
        return values


RUN = {"mica": mica, "vllm": vllm, "llama": llama}


def limits(threads):
    done = subprocess.run([RELEASE / "mica_limits", str(threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"mica_limits: {done.stderr.strip()}")
    return json.loads(done.stdout)
