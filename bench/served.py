"""A `mica serve` that a benchmark measures."""
import contextlib
import pathlib
import re
import subprocess
import tempfile
import time


@contextlib.contextmanager
def server(build, model, *flags):
    """-> its process, its ports of gRPC and HTTP. The model's weights are random."""
    command = [build / "mica", "serve", model, "--load-format", "dummy", "--grpc-port", 0, "--port", 0, *flags]
    with tempfile.NamedTemporaryFile("w") as log:
        said = pathlib.Path(log.name).read_text
        process = subprocess.Popen(list(map(str, command)), stderr=log)
        try:
            while not (found := re.search(r"^ready grpc=\S+:(\d+) http=\S+:(\d+)", said(), re.M)):
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start: {said()}")
                time.sleep(.05)
            yield process, *found.groups()
        finally:
            process.kill()
            process.wait()
