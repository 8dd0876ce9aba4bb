"""GGUF files of every quantised type, and of mixed ones, against directories with the values that they stand for.

Blocks are random bytes with sane scales; what they mean is written here once more, after ggml-quants.c.
"""
import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import mica

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 256, 8, 1, 32, 256, 285   # K formats need whole groups of 256
KV = KV_HEADS * HEAD_DIM
LINEARS = {"attn_q": ("self_attn.q_proj", HIDDEN, HIDDEN), "attn_k": ("self_attn.k_proj", KV, HIDDEN),
           "attn_v": ("self_attn.v_proj", KV, HIDDEN), "attn_output": ("self_attn.o_proj", HIDDEN, HIDDEN),
           "ffn_gate": ("mlp.gate_proj", FFN, HIDDEN), "ffn_up": ("mlp.up_proj", FFN, HIDDEN),
           "ffn_down": ("mlp.down_proj", HIDDEN, FFN)}
TOLERANCE = 1e-4
U32, F32, STRING, ARRAY = 4, 6, 8, 9   # GGUF's numbers of value types


def f16(x):
    return struct.pack("<e", x)


def halves(raw, count):
    return struct.unpack(f"<{count}e", raw[:2 * count])


def nibbles(raw):
    """The low ones, then the high ones."""
    return [b & 15 for b in raw] + [b >> 4 for b in raw]


def fifth_bits(raw):
    bits = int.from_bytes(raw, "little")
    return [(bits >> i & 1) << 4 for i in range(32)]


def plus(low, high):
    return [a | b for a, b in zip(low, high, strict=True)]


def q4_0(b):
    (d,) = halves(b, 1)
    return [d * (c - 8) for c in nibbles(b[2:])]


def q4_1(b):
    d, m = halves(b, 2)
    return [d * c + m for c in nibbles(b[4:])]


def q5_0(b):
    (d,) = halves(b, 1)
    return [d * (c - 16) for c in plus(nibbles(b[6:]), fifth_bits(b[2:6]))]


def q5_1(b):
    d, m = halves(b, 2)
    return [d * c + m for c in plus(nibbles(b[8:]), fifth_bits(b[4:8]))]


def q8_0(b):
    (d,) = halves(b, 1)
    return [d * c for c in struct.unpack("<32b", b[2:])]


def k_factors(p, i):
    """Scale's and minimum's factor of run i: six bits each, in 12 bytes."""
    if i < 4:
        return p[i] & 63, p[i + 4] & 63
    return p[i + 4] & 15 | (p[i - 4] >> 6) << 4, p[i + 4] >> 4 | (p[i] >> 6) << 4


def k_values(b, low, high):
    """Of Q4_K and Q5_K. low: 128 bytes; high: 32 bytes of fifth bits, bit i for run i."""
    (d, dmin), out = halves(b, 2), []
    for i in range(8):
        scale, least = k_factors(b[4:16], i)
        codes = nibbles(low[i // 2 * 32:i // 2 * 32 + 32])[i % 2 * 32:i % 2 * 32 + 32]
        codes = plus(codes, [(h >> i & 1) << 4 for h in high])
        out += [d * scale * c - dmin * least for c in codes]
    return out


def q4_k(b):
    return k_values(b, b[16:], bytes(32))


def q5_k(b):
    return k_values(b, b[48:], b[16:48])


def q6_k(b):
    (d,), factors, out = halves(b[208:], 1), struct.unpack("<16b", b[192:208]), []
    for i in range(256):
        half, part, lane = i // 128, i % 128 // 32, i % 32
        low = b[half * 64 + part % 2 * 32 + lane] >> part // 2 * 4 & 15
        code = low | (b[128 + half * 32 + lane] >> part * 2 & 3) << 4
        out.append(d * factors[i // 16] * (code - 32))
    return out


class Kind:
    """A type: ggml's number, values and bytes of a block, what a block means, and the scales that make values of
    about 0.06, which are at its start (at its end in Q6_K)."""

    def __init__(self, number, group, size, values, *scales, last=False):
        self.number, self.group, self.size, self.values = number, group, size, values
        self.scales, self.last = b"".join(map(f16, scales)), last

    def random(self, rng, count):
        blocks = []
        for _ in range(count // self.group):
            raw = rng.randbytes(self.size - len(self.scales))
            blocks.append(raw + self.scales if self.last else self.scales + raw)
        return b"".join(blocks), [v for b in blocks for v in self.values(b)]


KINDS = {
    "Q4_0": Kind(2, 32, 18, q4_0, 0.013), "Q4_1": Kind(3, 32, 20, q4_1, 0.013, -0.1),
    "Q5_0": Kind(6, 32, 22, q5_0, 0.0065), "Q5_1": Kind(7, 32, 24, q5_1, 0.0065, -0.1),
    "Q8_0": Kind(8, 32, 34, q8_0, 0.0008), "Q4_K": Kind(12, 256, 144, q4_k, 0.0004, 0.003),
    "Q5_K": Kind(13, 256, 176, q5_k, 0.0002, 0.003), "Q6_K": Kind(14, 256, 210, q6_k, 0.00004, last=True),
}
MIXES = {   # Q4_K_M's, and one in which every part of a fused matrix differs
    "like Q4_K_M": {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q6_K", "": "Q4_K"},
    "all different": {"attn_k": "Q4_1", "attn_v": "Q8_0", "ffn_gate": "Q5_1", "ffn_up": "Q6_K", "": "Q4_0"},
}


def unpaired(values, rows, columns):
    """Rows of q or k as transformers has them: a GGUF has a head's two halves in turns."""
    out = []
    for row in range(rows):
        head, within = divmod(row, HEAD_DIM)
        at = head * HEAD_DIM + within % (HEAD_DIM // 2) * 2 + within // (HEAD_DIM // 2)
        out += values[at * columns:(at + 1) * columns]
    return out


def random_tensors(rng, kinds):
    """GGUF's name -> (type, shape, bytes); transformers' name -> (shape, values)"""
    stored, meant = {}, {}
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        stored[name] = 0, [HIDDEN], struct.pack("<f", 1) * HIDDEN
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        meant[f"model.{name}.weight"] = [HIDDEN], [1.0] * HIDDEN
    linears = {"token_embd": ("model.embed_tokens", VOCAB, HIDDEN)}
    linears.update({name: (f"model.layers.0.{theirs}", *shape) for name, (theirs, *shape) in LINEARS.items()})
    for name, (theirs, rows, columns) in linears.items():
        kind = KINDS[kinds.get(name, kinds[""])]
        raw, values = kind.random(rng, rows * columns)
        stored[name if name == "token_embd" else "blk.0." + name] = kind.number, [rows, columns], raw
        if name in ("attn_q", "attn_k"):
            values = unpaired(values, rows, columns)
        meant[theirs + ".weight"] = [rows, columns], values
    return stored, meant


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def texts(key, values):
    return text(key) + struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(text, values))


def write_gguf(path, tensors):
    numbers = {"block_count": 1, "embedding_length": HIDDEN, "feed_forward_length": FFN, "context_length": 512,
               "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS}
    meta = [text("general.architecture") + struct.pack("<I", STRING) + text("llama")]
    meta += [text("llama." + key) + struct.pack("<II", U32, n) for key, n in numbers.items()]
    meta += [text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", F32, 1e-5)]
    meta += [text("tokenizer.ggml.model") + struct.pack("<I", STRING) + text("gpt2")]   # no text is ever read
    words = ["a", "b", "ab", *(f"t{i}" for i in range(3, VOCAB))]
    meta += [texts("tokenizer.ggml.tokens", words), texts("tokenizer.ggml.merges", ["a b"])]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta)) + b"".join(meta)
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text(name + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def write_directory(folder, tensors):
    folder.mkdir()
    shutil.copy(mica.GOLDEN / "llama-llama3/tokenizer.json", folder)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": FFN, "vocab_size": VOCAB,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "torch_dtype": "float32"}))
    header, data = {}, []
    at = 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
        data.append(struct.pack(f"<{len(values)}f", *values))
        at += 4 * len(values)
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data))


def logprobs(model, kernels):
    rng = mica.seeded("gguf types")
    bodies = [{"prompt": mica.random_ids(rng, n), "max_tokens": 4, "temperature": 0, "ignore_eos": True,
               "prompt_logprobs": 0, "return_token_ids": True} for n in (2, 40)]
    answers = mica.run(bodies, model, ["--dtype", "float32", "--cpu-kernels", kernels])
    ids = [a["choices"][0]["token_ids"] for a in answers]
    rows = [row for a in answers for row in a["choices"][0]["prompt_logprobs"] if row]
    return ids, [next(iter(row.values()))["logprob"] for row in rows]


class GgufTypes(unittest.TestCase):
    def check(self, kinds):
        stored, meant = random_tensors(mica.seeded("gguf", *kinds.values()), kinds)
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            write_gguf(folder / "model.gguf", stored)
            write_directory(folder / "model", meant)
            want_ids, want = logprobs(folder / "model", "auto")
            for kernels in ("auto", "portable"):
                ids, got = logprobs(folder / "model.gguf", kernels)
                self.assertEqual(ids, want_ids)
                self.assertLessEqual(max(abs(x - y) for x, y in zip(got, want, strict=True)), TOLERANCE, kernels)
        self.assertGreater(max(want) - min(want), 1, "the model says nothing")

    def test_every_type_means_what_it_does_in_ggml(self):
        for kind in KINDS:
            with self.subTest(kind):
                self.check({"": kind})

    def test_parts_of_a_fused_matrix_may_differ(self):
        for name, kinds in MIXES.items():
            with self.subTest(name):
                self.check(kinds)


if __name__ == "__main__":
    unittest.main()
