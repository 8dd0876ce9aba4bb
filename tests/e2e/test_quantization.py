"""--quantization against a directory whose weights were rounded here, by another hand, and dequantised."""
import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import mica

MODEL = mica.GOLDEN / "llama-llama3"   # K 64 but for down_proj's 72, which stays as it is
TOLERANCE = 1e-4


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def f16(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def away(x):
    """To nearest, halves away from zero."""
    return int(abs(x) + 0.5) * (1 if x >= 0 else -1)


def rounded_q8_0(block):
    step = f32(max(map(abs, block)) / 127)
    inverse = f32(1 / step) if step else 0.0
    return [f32(away(f32(x * inverse)) * f16(step)) for x in block]


def rounded_q4_0(block):
    extreme = max(block, key=abs)
    step = f32(extreme / -8)
    inverse = f32(1 / step) if step else 0.0
    return [f32((min(15, int(f32(f32(x * inverse) + 8.5))) - 8) * f16(step)) for x in block]


def read_tensors(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    for name, about in header.items():
        if name == "__metadata__":
            continue
        first, end = about["data_offsets"]
        assert about["dtype"] == "BF16"
        halves = struct.unpack(f"<{(end - first) // 2}H", raw[8 + size + first:8 + size + end])
        yield name, about["shape"], [struct.unpack("<f", struct.pack("<I", h << 16))[0] for h in halves]


def write_tensors(path, tensors):
    header, data = {}, b""
    for name, shape, values in tensors:
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
        data += struct.pack(f"<{len(values)}f", *values)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rounded_model(folder, kind):
    """The model with its weights rounded; embedding and head are always Q8_0."""
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("adapters", "*.safetensors"))
    tensors = []
    for name, shape, values in read_tensors(MODEL / "model.safetensors"):
        if len(shape) == 2 and shape[1] % 32 == 0:
            rounded = rounded_q4_0 if kind == "q4_0" and "_proj" in name else rounded_q8_0
            values = [v for i in range(0, len(values), 32) for v in rounded(values[i:i + 32])]
        tensors.append((name, shape, values))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def bodies():
    rng = mica.seeded("quantization")
    return [{"prompt": mica.random_ids(rng, n), "max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": 1,
             "prompt_logprobs": 0, "return_token_ids": True} for n in (3, 20, 70)]


def prompt_logprobs(answer):
    rows = answer["choices"][0]["prompt_logprobs"]
    return [next(iter(row.values()))["logprob"] for row in rows if row]


class Quantization(unittest.TestCase):
    def answers(self, model, flags):
        return [mica.run([body], model, flags)[0] for body in bodies()]

    def check(self, kind, kernels):
        flags = ["--dtype", "float32", "--cpu-kernels", kernels]
        with tempfile.TemporaryDirectory() as folder:
            want = self.answers(rounded_model(pathlib.Path(folder) / "model", kind), flags)
        plain = self.answers(MODEL, flags)
        got = self.answers(MODEL, [*flags, "--quantization", kind])
        moved = 0
        for a, b, c in zip(got, want, plain, strict=True):
            for x, y, z in zip(prompt_logprobs(a), prompt_logprobs(b), prompt_logprobs(c), strict=True):
                self.assertLessEqual(abs(x - y), TOLERANCE, f"{kind}, {kernels}")
                moved = max(moved, abs(x - z))
        self.assertGreater(moved, 10 * TOLERANCE, "nothing was rounded")

    def test_a_directory_is_rounded_as_gguf_would(self):
        for kernels in ("auto", "portable"):
            for kind in ("q8_0", "q4_0"):
                with self.subTest(kind=kind, kernels=kernels):
                    self.check(kind, kernels)


if __name__ == "__main__":
    unittest.main()
