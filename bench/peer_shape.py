"""The model that every engine runs - a Granite-2B of as many layers as asked for - and what it costs at least."""

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2048, 32, 8, 64, 8192, 49155
RANK, ADAPTERS = 32, 8
PREFILL = 512                       # tokens of the long prompt
PROMPT, STEPS = 16, 32              # tokens of a prompt before a decode, steps of it
CONTEXT = 4096                      # tokens that base has served before an intrinsic comes
INVOCATION_IDS = list(range(100, 108))     # the intrinsic's own
INVOCATION = len(INVOCATION_IDS)
FIRST_ID = 108                      # of prompts' random tokens, so that none is an invocation's
MODULES = {                         # name: (inputs, outputs); the adapters are on all of them
    "q_proj": (HIDDEN, HEADS * HEAD_DIM), "k_proj": (HIDDEN, KV_HEADS * HEAD_DIM),
    "v_proj": (HIDDEN, KV_HEADS * HEAD_DIM), "o_proj": (HEADS * HEAD_DIM, HIDDEN),
    "gate_proj": (HIDDEN, FFN), "up_proj": (HIDDEN, FFN), "down_proj": (FFN, HIDDEN),
}
BF16 = 2


def config(layers):
    """config.json, as Hugging Face writes it."""
    return {
        "architectures": ["GraniteForCausalLM"], "model_type": "granite", "hidden_size": HIDDEN,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "intermediate_size": FFN, "vocab_size": VOCAB, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "hidden_act": "silu",
        "embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22,
        "logits_scaling": 8.0, "bos_token_id": 0, "eos_token_id": 0,
    }


def layer_weights(layers):
    return layers * sum(i * o for i, o in MODULES.values())


def adapter_weights(layers):
    return layers * sum(RANK * (i + o) for i, o in MODULES.values())


def attention_flops(layers, first, count):
    """Scores and sums of `count` rows from position `first` on."""
    seen = count * first + count * (count + 1) // 2
    return 4 * layers * HEADS * HEAD_DIM * seen


def least_seconds(layers, limits, rows, heads, adapters=0, first=0):
    """The longer of reading every weight once and of all multiplications: rows through the layers, `heads` of them
    through the head, `adapters` different ones read. `first`: positions in the cache before, of a single sequence."""
    flops_limit = 1e9 * max(limits["fma_gflops"], limits["bf16_dot_gflops"])
    weights, vocabulary = layer_weights(layers), HIDDEN * VOCAB
    kv_bytes = 2 * layers * KV_HEADS * HEAD_DIM * first * BF16
    read = (weights + vocabulary + adapters * adapter_weights(layers)) * BF16 + kv_bytes
    flops = 2 * (rows * weights + heads * vocabulary)
    flops += 2 * rows * adapter_weights(layers) if adapters else 0
    if rows > heads or first:       # a prompt; the attention of short decodes is nothing
        flops += attention_flops(layers, first, rows)
    return max(read / (1e9 * limits["read_gbs"]), flops / flops_limit)
