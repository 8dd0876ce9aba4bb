"""What is measured, what an engine cannot do, and the file that results are kept in."""
import collections
import functools
import json
import os
import statistics

import peer_shape as shape

# name: of the case; title: of its row; unit; better: "higher" or "lower"; setting: what the process is started for -
# engines treat base, adapters and a long context differently, and their memory is that of one such process.
Case = collections.namedtuple("Case", "name title unit better setting")

CASES = [
    Case("prefill", f"prefill, {shape.PREFILL} tokens", "tokens/s", "higher", "base"),
    Case("decode1", "decode, batch 1", "tokens/s", "higher", "base"),
    Case("decode8", "decode, batch 8", "tokens/s", "higher", "base"),
    Case("decode32", "decode, batch 32", "tokens/s", "higher", "base"),
    Case("adapter1", "decode, batch 1, an adapter", "tokens/s", "higher", "adapters"),
    Case("adapters8", "decode, batch 8, 8 different adapters", "tokens/s", "higher", "adapters"),
    Case("ttft_lora", "first token, LoRA on a cached 4k context", "ms", "lower", "context"),
    Case("ttft_alora", "first token, aLoRA on the same", "ms", "lower", "context"),
    Case("memory", "peak memory, base up to batch 32", "MB", "lower", "base"),
]
BY_NAME = {c.name: c for c in CASES}
ENGINES = {"mica": "Mica", "vllm": "vLLM", "llama": "llama.cpp"}
NOT_OFFERED = {("vllm", "ttft_alora"): "refuses activated LoRAs"}
BATCH = {"decode1": 1, "decode8": 8, "decode32": 32, "adapter1": 1, "adapters8": 8}


def adapters_of(name):
    return {"adapter1": 1, "adapters8": shape.ADAPTERS, "ttft_lora": 1, "ttft_alora": 1}.get(name, 0)


def limit_of(name, layers, limits):
    """The best figure that the machine's limits allow, in the case's unit; None where there is none."""
    least = functools.partial(shape.least_seconds, layers, limits)
    if name == "prefill":
        return shape.PREFILL / least(rows=shape.PREFILL, heads=1)
    if name in BATCH:
        return BATCH[name] / least(rows=BATCH[name], heads=BATCH[name], adapters=adapters_of(name))
    if name == "ttft_lora":
        return 1e3 * least(rows=shape.CONTEXT + shape.INVOCATION, heads=1, adapters=1)
    if name == "ttft_alora":
        return 1e3 * least(rows=shape.INVOCATION, heads=1, adapters=1, first=shape.CONTEXT)
    return 2 * (shape.layer_weights(layers) + shape.HIDDEN * shape.VOCAB) / 1e6    # memory: the weights


def share_of_limit(record):
    """1: as good as the limits measured just before allow."""
    limit = limit_of(record["case"], record["layers"], record["limits"])
    return record["value"] / limit if BY_NAME[record["case"]].better == "higher" else limit / record["value"]


def load(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)["records"]
    except FileNotFoundError:
        return []


def store(path, records):
    """Whole or not at all: a run that is interrupted keeps what it had."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as f:
        json.dump({"records": records}, f, indent=1)
        f.write("\n")
    os.replace(partial, path)


Summary = collections.namedtuple("Summary", "median least most count share limit")


def summarise(records):
    """(engine, case) -> Summary. A figure that has been measured is of one shape: mix no layers or threads."""
    groups = collections.defaultdict(list)
    for r in records:
        groups[r["engine"], r["case"]].append(r)
    found = {}
    for (engine, case), rows in groups.items():
        values = [r["value"] for r in rows]
        limits = [limit_of(case, r["layers"], r["limits"]) for r in rows]
        found[engine, case] = Summary(statistics.median(values), min(values), max(values), len(values),
                                      statistics.median(map(share_of_limit, rows)), statistics.median(limits))
    return found
