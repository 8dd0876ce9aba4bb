"""Starts `mica serve` and gives stock grpcio stubs for it, which protoc makes from proto/ on first use."""
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import mica

START_TIMEOUT_S = 120
END_TIMEOUT_S = 120
PROTOS = ("inference", "control", "health", "reflection", "reflection_v1alpha")


def make_stubs():
    """-> a folder on sys.path, whose modules are as new as the .proto files"""
    source = mica.ROOT / "proto"
    target = mica.build_dir() / "python-stubs"
    stamp = max((source / f"{name}.proto").stat().st_mtime_ns for name in PROTOS)
    done = target / "made"
    if not done.exists() or done.read_text() != str(stamp):
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["protoc", f"-I{source}", f"--python_out={target}", f"--grpc_python_out={target}",
                        "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin",
                        *(str(source / f"{name}.proto") for name in PROTOS)], check=True)
        done.write_text(str(stamp))
    sys.path.insert(0, str(target))


make_stubs()
import control_pb2 as control  # noqa: E402
import control_pb2_grpc as control_grpc  # noqa: E402
import grpc  # noqa: E402
import health_pb2 as health  # noqa: E402
import health_pb2_grpc as health_grpc  # noqa: E402
import inference_pb2 as inference  # noqa: E402
import inference_pb2_grpc as inference_grpc  # noqa: E402


class Server:
    """A running server; its stderr is in `log`, which is a file, so that nothing waits for a reader."""

    def __init__(self, model, flags=(), adapters=None, tls=None):
        self.log = tempfile.NamedTemporaryFile(mode="r+", suffix=".log")
        command = [str(mica.build_dir() / "mica"), "serve", str(model), "--served-model-name", mica.BASE,
                   "--grpc-port", "0", "--port", "0", *map(str, flags)]
        if adapters:
            command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.log)
        self.address = self.wait_until_ready()
        self.channel = self.connect(tls)
        self.inference = inference_grpc.InferenceStub(self.channel)
        self.control = control_grpc.ControlStub(self.channel)
        self.health = health_grpc.HealthStub(self.channel)

    def connect(self, tls=None):
        # A pool of its own: gRPC in Python otherwise shares connections between channels.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(self.address, tls, options) if tls else \
            grpc.insecure_channel(self.address, options)

    def said(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def wait_until_ready(self):
        import time
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            found = re.search(r"^ready grpc=(\S+) http=(\S+)(?: admin=(\S+))?$", self.said(), re.M)
            if found:
                self.http, self.admin = found.group(2, 3)
                return found.group(1)
            assert self.process.poll() is None, f"the server ended: {self.said()}"
            time.sleep(0.02)
        raise AssertionError(f"not ready: {self.said()}")

    def stop(self, number=signal.SIGTERM):
        """-> the exit status"""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(END_TIMEOUT_S)
        said = self.said()
        assert "Sanitizer" not in said and "runtime error" not in said, said
        return status

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            status = self.stop()
            assert status == 0, f"exit status {status}\n{self.said()}"


def slow_device():
    """Flags: a device that ends a step each 10 ms and computes nothing (bench/idle_device.c); tokens count up."""
    return ["--load-format", "dummy", "--device", "cuda", "--plugin-dir", mica.build_dir() / "idle_device"]


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def bearer(key):
    return (("authorization", f"Bearer {key}"),)


def tenant(name, **more):
    """An entry of a tenants file; its key is NAME-key."""
    return {"name": name, "key_sha256": sha256(f"{name}-key"), **more}


def tenants_text(*tenants, admin=True):
    """A tenants file; the admin's key is root-key."""
    return json.dumps({**({"admin_key_sha256": sha256("root-key")} if admin else {}), "tenants": tenants})


def request_of(body, request_id=""):
    """A batch line's body as a GenerateRequest; temperature has no other default than the body's."""
    r = inference.GenerateRequest(request_id=request_id, temperature=body.get("temperature", 1.0))
    prompt = body["prompt"]
    if isinstance(prompt, str):
        r.text = prompt
    else:
        r.token_ids.ids.extend(prompt)
    if body.get("model", mica.BASE) != mica.BASE:
        r.lora_name = body["model"]
    for name in ("top_k", "top_p", "min_p", "seed"):
        if name in body:
            setattr(r.sampling, name, body[name])
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        if name in body:
            setattr(r.decoding, name, body[name])
    for token, bias in body.get("logit_bias", {}).items():
        r.decoding.logit_bias[int(token)] = bias
    r.stopping.max_new_tokens = body.get("max_tokens", 16)
    r.stopping.min_new_tokens = body.get("min_tokens", 0)
    r.stopping.stop_token_ids.extend(body.get("stop_token_ids", []))
    r.stopping.stop_strings.extend(body.get("stop", []))
    r.stopping.ignore_eos = body.get("ignore_eos", False)
    r.response.output_token_ids = True
    if body.get("logprobs") is not None:
        r.response.output_logprobs = True
        r.response.output_candidates.top_n = body["logprobs"]
    if "cache_salt" in body:
        r.kv.cache_salt = body["cache_salt"]
    return r


class Answer:
    """A whole answer, from one message or a stream of them."""

    def __init__(self, messages):
        self.messages, self.ids, self.logprobs, self.ranks, self.candidates = 0, [], [], [], []
        self.text, self.tokens, self.finish, self.prompt = "", 0, None, None
        for m in messages:
            self.add(m)

    def add(self, m):
        self.messages += 1
        if m.HasField("prompt_info"):
            assert self.prompt is None, "prompt_info came twice"
            self.prompt = m.prompt_info
        if not m.HasField("outputs"):
            return
        assert self.finish is None, "news after the end"
        out = m.outputs
        self.text += out.text
        self.ids += out.token_ids
        self.logprobs += out.logprobs
        self.ranks += out.ranks
        self.candidates += [[(t.id, t.logprob, t.rank) for t in c.tokens] for c in out.candidate_tokens]
        self.tokens += out.num_tokens
        if out.HasField("finish_info"):
            self.finish = out.finish_info


def reasons():
    kinds = inference.FinishInfo
    return {kinds.LENGTH: "length", kinds.STOP: "stop", kinds.ABORTED: "abort"}


def trailers(call):
    return dict(call.trailing_metadata())


def refused(test, call, code, text=""):
    """The call must fail with this status, and its details hold the text."""
    with test.assertRaises(grpc.RpcError) as caught:
        result = call()
        list(result) if hasattr(result, "__iter__") else None
    error = caught.exception
    test.assertEqual(error.code(), code, error.details())
    test.assertIn(text, error.details())


def open_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def names_of_open_files(process):
    folder = pathlib.Path(f"/proc/{process.pid}/fd")
    return sorted(os.readlink(f) for f in folder.iterdir())
