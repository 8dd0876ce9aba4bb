"""Drives `mica run-batch` and reads what it writes. Python 3.11, standard library only."""
import json
import os
import pathlib
import random
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/models"
REAL_MODEL = ROOT / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
BASE = "base"
TIMEOUT_S = 600


def build_dir():
    return pathlib.Path(os.environ.get("MICA_BUILD", ROOT / "build/release")).resolve()


def line_of(custom_id, body, url="/v1/completions"):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


class Run:
    """One finished run: exit status, stderr and the output file's lines."""

    def __init__(self, command, status, stderr, output):
        self.command, self.status, self.stderr = command, status, stderr
        self.lines = [json.loads(line) for line in output.decode("utf-8").splitlines()] if output else []
        self.wrote = output is not None

    def by_id(self):
        answers = {line["custom_id"]: line["response"] for line in self.lines}
        assert len(answers) == len(self.lines), "a custom_id was answered twice"
        return answers

    def __str__(self):
        return f"{' '.join(self.command)}\nexit status {self.status}\n{self.stderr}"


def start_alone(command):
    """-> exit status, stderr"""
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def run_lines(lines, model, flags=(), adapters=None, before=None, start=start_alone):
    """Runs a batch of ready-made lines. before: bytes that the output file holds beforehand."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(source, "wb") as f:
            f.write(b"".join(x.encode() + b"\n" if isinstance(x, str) else x for x in lines))
        if before is not None:
            with open(target, "wb") as f:
                f.write(before)
        command = [str(build_dir() / "mica"), "run-batch", "-i", source, "-o", target, "--model", str(model),
                   "--served-model-name", BASE, *map(str, flags)]
        if adapters:
            command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
        status, stderr = start(command)
        output = pathlib.Path(target).read_bytes() if os.path.exists(target) else None
        return Run(command, status, stderr, output)


def run(bodies, model, flags=(), adapters=None, start=start_alone):
    """-> answers' bodies, in the order of the requests; every one must have been served."""
    lines = [line_of(str(i), b) for i, b in enumerate(bodies)]
    result = run_lines(lines, model, flags, adapters, start=start)
    assert result.status == 0, str(result)
    answers = result.by_id()
    assert len(answers) == len(bodies), f"{len(answers)} answers to {len(bodies)} requests\n{result}"
    for i, body in enumerate(bodies):
        answer = answers[str(i)]
        assert answer["status_code"] == 200, f"{body}\n{answer}"
    return [answers[str(i)]["body"] for i in range(len(bodies))]


def adapters_of(model_dir):
    return {p.name: p for p in sorted((pathlib.Path(model_dir) / "adapters").iterdir())}


def cases_of(model_dir):
    return json.loads((pathlib.Path(model_dir) / "cases.json").read_text())["cases"]


def golden_models():
    return sorted(p.name for p in GOLDEN.iterdir())


def cached_tokens(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def token_logprobs(answer, choice=0):
    return answer["choices"][choice]["logprobs"]["token_logprobs"]


def random_ids(rng, count, vocab=250, low=10):
    return [rng.randrange(low, vocab) for _ in range(count)]


def seeded(*parts):
    return random.Random(" ".join(map(str, parts)))
