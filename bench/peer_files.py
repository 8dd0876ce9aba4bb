"""Random weights in the formats that the engines read: config.json and PEFT directories, GGUF models and adapters.

Speed does not depend on the values, as long as none is denormal: every tensor is cut from one block of random bf16.
"""
import json
import random
import struct

import peer_shape as shape

GGUF_VERSION, GGUF_ALIGNMENT = 3, 32
GGUF_F32, GGUF_BF16 = 0, 30                                  # ggml's numbers of tensor types
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5        # GGUF's numbers of value types
BLOCK_VALUES = 1 << 20
GGUF_NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
              "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def random_block():
    """BLOCK_VALUES of about N(0, 0.02) as bf16, which is the upper half of a float32."""
    rng = random.Random(1)
    some = [rng.gauss(0, 0.02) for _ in range(1 << 14)]
    whole = b"".join(struct.pack("<f", v)[2:] for v in some)
    return whole * (BLOCK_VALUES // len(some))


def write_bf16(f, count, block):
    while count:
        part = min(count, BLOCK_VALUES)
        f.write(block[:part * shape.BF16])
        count -= part


def json_file(path, value):
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def product(dims):
    n = 1
    for d in dims:
        n *= d
    return n


def gguf_text(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    """A typed value: (number of a type, value); of an array, (ARRAY, number of the elements' type, values)."""
    kind, rest = value[0], value[1:]
    if kind == STRING:
        return struct.pack("<I", kind) + gguf_text(rest[0])
    if kind != ARRAY:
        return struct.pack("<I" + {U32: "I", F32: "f", BOOL: "?"}[kind], kind, rest[0])
    element, values = rest
    body = b"".join(map(gguf_text, values)) if element == STRING else \
        struct.pack(f"<{len(values)}{'I' if element == U32 else 'i'}", *values)
    return struct.pack("<IIQ", ARRAY, element, len(values)) + body


def write_gguf(path, meta, tensors):
    """meta: key -> typed value. tensors: name -> (dims, type), the fastest dimension first; F32 ones are all 1."""
    block, offset = random_block(), 0
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", GGUF_VERSION, len(tensors), len(meta)))
        for key, value in meta.items():
            f.write(gguf_text(key) + gguf_value(value))
        for name, (dims, kind) in tensors.items():
            f.write(gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
            size = product(dims) * (4 if kind == GGUF_F32 else shape.BF16)
            offset += size + -size % GGUF_ALIGNMENT
        f.write(b"\0" * (-f.tell() % GGUF_ALIGNMENT))
        for dims, kind in tensors.values():
            if kind == GGUF_F32:
                f.write(struct.pack("<f", 1.0) * product(dims))
            else:
                write_bf16(f, product(dims), block)
            f.write(b"\0" * (-f.tell() % GGUF_ALIGNMENT))


def gguf_model(path, layers):
    config = shape.config(layers)
    words = [f"t{i}" for i in range(shape.VOCAB)]            # no text is ever read, but a vocabulary must be there
    meta = {
        "general.architecture": (STRING, "granite"), "general.name": (STRING, "random"),
        "granite.block_count": (U32, layers), "granite.context_length": (U32, config["max_position_embeddings"]),
        "granite.embedding_length": (U32, shape.HIDDEN), "granite.feed_forward_length": (U32, shape.FFN),
        "granite.attention.head_count": (U32, shape.HEADS), "granite.attention.head_count_kv": (U32, shape.KV_HEADS),
        "granite.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "granite.rope.freq_base": (F32, config["rope_theta"]), "granite.rope.dimension_count": (U32, shape.HEAD_DIM),
        "granite.vocab_size": (U32, shape.VOCAB), "granite.logit_scale": (F32, config["logits_scaling"]),
        "granite.residual_scale": (F32, config["residual_multiplier"]),
        "granite.embedding_scale": (F32, config["embedding_multiplier"]),
        "granite.attention.scale": (F32, config["attention_multiplier"]),
        "tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "default"),
        "tokenizer.ggml.tokens": (ARRAY, STRING, words), "tokenizer.ggml.merges": (ARRAY, STRING, ["t 0"]),
        "tokenizer.ggml.token_type": (ARRAY, I32, [1] * shape.VOCAB),
        "tokenizer.ggml.bos_token_id": (U32, 0), "tokenizer.ggml.eos_token_id": (U32, 0),
    }
    tensors = {"token_embd.weight": ((shape.HIDDEN, shape.VOCAB), GGUF_BF16),
               "output_norm.weight": ((shape.HIDDEN,), GGUF_F32)}
    for n in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{n}.{name}.weight"] = ((shape.HIDDEN,), GGUF_F32)
        for name, (inputs, outputs) in shape.MODULES.items():
            tensors[f"blk.{n}.{GGUF_NAMES[name]}.weight"] = ((inputs, outputs), GGUF_BF16)
    write_gguf(path, meta, tensors)


def gguf_adapter(path, layers, invocation=None):
    meta = {"general.architecture": (STRING, "granite"), "general.type": (STRING, "adapter"),
            "adapter.type": (STRING, "lora"), "adapter.lora.alpha": (F32, float(shape.RANK))}
    if invocation:
        meta["adapter.alora.invocation_tokens"] = (ARRAY, U32, invocation)
    tensors = {}
    for n in range(layers):
        for name, (inputs, outputs) in shape.MODULES.items():
            stem = f"blk.{n}.{GGUF_NAMES[name]}.weight"
            tensors[f"{stem}.lora_a"] = ((inputs, shape.RANK), GGUF_BF16)
            tensors[f"{stem}.lora_b"] = ((shape.RANK, outputs), GGUF_BF16)
    write_gguf(path, meta, tensors)


def peft_adapter(folder, layers, modules=shape.MODULES):
    """modules: name -> (inputs, outputs)"""
    folder.mkdir(parents=True, exist_ok=True)
    header, offset, counts = {}, 0, []
    for n in range(layers):
        for name, (inputs, outputs) in modules.items():
            part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            stem = f"base_model.model.model.layers.{n}.{part}.{name}"
            for half, dims in (("lora_A", [shape.RANK, inputs]), ("lora_B", [outputs, shape.RANK])):
                size = product(dims) * shape.BF16
                header[f"{stem}.{half}.weight"] = {"dtype": "BF16", "shape": dims,
                                                   "data_offsets": [offset, offset + size]}
                offset += size
                counts.append(product(dims))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = random_block()
    with open(folder / "adapter_model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for count in counts:
            write_bf16(f, count, block)
    json_file(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": shape.RANK, "lora_alpha": shape.RANK,
        "lora_dropout": 0.0, "bias": "none", "target_modules": list(modules)})
