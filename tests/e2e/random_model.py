"""Random config.json files for --load-format dummy, and random PEFT directories that fit them."""
import json
import struct

DTYPES = {"F32": 4, "BF16": 2, "F16": 2}


def random_config(rng):
    kind = rng.choice(("granite", "llama", "hybrid"))
    kv_heads = rng.randint(1, 3)
    heads = kv_heads * rng.choice((1, 1, 2, 3, 4))
    config = {
        "granite": {"architectures": ["GraniteForCausalLM"], "model_type": "granite"},
        "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "hybrid": {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid"},
    }[kind]
    layers = rng.randint(1, 3)
    config.update(
        hidden_size=heads * rng.choice((4, 6, 10, 32)), intermediate_size=rng.choice((rng.randint(5, 90), 64, 96)),
        num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=rng.randint(260, 400),
        max_position_embeddings=1024, rms_norm_eps=1e-5, hidden_act="silu", rope_theta=10000.0,
        tie_word_embeddings=rng.random() < 0.5, bos_token_id=1, eos_token_id=2,
        torch_dtype=rng.choice(("float32", "bfloat16")))
    if kind == "llama":
        config["head_dim"] = rng.choice((4, 8, 22, 30))
    if kind != "hybrid":
        config.update(attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.3)
    else:
        config.update(layer_types=["attention"] * layers, num_local_experts=0, num_experts_per_tok=0,
                      shared_intermediate_size=config["intermediate_size"], position_embedding_type="rope")
    if kind != "llama":
        config.update(embedding_multiplier=rng.uniform(1, 4), attention_multiplier=rng.uniform(0.1, 0.4),
                      residual_multiplier=rng.uniform(0.3, 1), logits_scaling=rng.uniform(0.5, 2))
    if rng.random() < 0.3:
        config["rope_scaling"] = rng.choice((
            {"rope_type": "linear", "factor": 2.0},
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 64}))
    return config


def modules_of(config):
    """name -> (in, out)"""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    modules = {"self_attn.q_proj": (hidden, q), "self_attn.k_proj": (hidden, kv), "self_attn.v_proj": (hidden, kv),
               "self_attn.o_proj": (q, hidden)}
    if config["model_type"] == "granitemoehybrid":
        modules.update({"shared_mlp.input_linear": (hidden, 2 * ffn), "shared_mlp.output_linear": (ffn, hidden)})
    else:
        modules.update({"mlp.gate_proj": (hidden, ffn), "mlp.up_proj": (hidden, ffn), "mlp.down_proj": (ffn, hidden)})
    return modules


def tensor_bytes(rng, count, gain, dtype):
    values = [rng.gauss(0, gain) for _ in range(count)]
    if dtype == "F16":
        return struct.pack(f"<{count}e", *values)
    whole = struct.pack(f"<{count}f", *values)
    if dtype == "F32":
        return whole
    return b"".join(whole[i + 2:i + 4] for i in range(0, len(whole), 4))   # the upper halves: truncated BF16


def write_adapter(rng, folder, config):
    """-> the invocation ids, or None for a LoRA"""
    modules, dtype = modules_of(config), rng.choice(list(DTYPES))
    chosen = rng.sample(sorted(modules), rng.randint(1, len(modules)))
    rank = rng.choice((1, 2, 3, 8, 17))
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name in chosen:
            stem, (size_in, size_out) = f"base_model.model.model.layers.{layer}.{name}", modules[name]
            tensors[stem + ".lora_A.weight"] = ([rank, size_in], 1 / size_in ** 0.5)
            tensors[stem + ".lora_B.weight"] = ([size_out, rank], 0.5 / rank ** 0.5)
    header, data = {}, b""
    for name, (shape, gain) in tensors.items():
        raw = tensor_bytes(rng, shape[0] * shape[1], gain, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    invocation = rng.choice((None, [], [rng.randrange(3, 9)], [rng.randrange(3, 9), rng.randrange(3, 9)]))
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rng.choice((rank, 2 * rank, 5)),
        "target_modules": chosen, "use_rslora": rng.random() < 0.2, "alora_invocation_tokens": invocation}))
    return invocation
