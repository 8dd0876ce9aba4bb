"""The models and adapters of the golden set: what is special about each.

Every entry is small and random with lively weights, and stands for one shape that Mica promises to serve.
"""

GRANITE = ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|pad|>"]
LLAMA = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]


def adapter(name, targets, invocation=None, *, rank=4, alpha=8, dtype="BF16", written=None, drop=(), **peft):
    """invocation: None (LoRA), a text that is tokenized, a list of ids, or "legacy:TEXT" for the old key.
    written: keys of adapter_config.json as they are to be found on disk, where PEFT writes them in another way."""
    return {"name": name, "targets": targets, "invocation": invocation, "rank": rank, "alpha": alpha,
            "dtype": dtype, "written": written or {}, "drop": drop, "peft": peft}


QKV = ["q_proj", "k_proj", "v_proj"]
HEADER = "<|start_of_role|>assistant<|end_of_role|>"

MODELS = [
    {
        "name": "granite", "about": "all four multipliers, tied head, GQA 4:1, vocabulary larger than the tokenizer's",
        "kind": "granite", "dtype": "BF16", "specials": GRANITE, "words": 40, "bos": None, "spelling": 5,
        "config": dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=8,
                       num_key_value_heads=2, vocab_size=349, tie_word_embeddings=True, rms_norm_eps=1e-5,
                       embedding_multiplier=3.5, attention_multiplier=0.31, residual_multiplier=0.62,
                       logits_scaling=0.7, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "adapters": [
            adapter("lora-qkv", QKV),
            adapter("lora-all", "all-linear", rank=8, alpha=16, written={"target_modules": "all-linear"}),
            adapter("alora-qkv", QKV, "<|start_of_role|>check<|end_of_role|>", rank=16, alpha=16),
            adapter("alora-all", "all-linear", "<|start_of_role|>check<|end_of_role|>", rank=6, alpha=12),
            adapter("alora-header", QKV + ["o_proj"], HEADER, rank=8, alpha=8, dtype="F32"),
            adapter("alora-empty", QKV, [], rank=4, alpha=8),
            adapter("alora-often", QKV, [17, 30], rank=4, alpha=8, dtype="F16"),
            adapter("alora-legacy", QKV, "legacy:<|start_of_role|>certainty<|end_of_role|>", rank=5, alpha=7),
            adapter("alora-plain-legacy", QKV, "legacy-alora: tell me", rank=3, alpha=6,
                    drop=("alora_invocation_tokens",)),
            adapter("lora-o", ["o_proj"], rank=3, alpha=9, dtype="F32"),
            adapter("lora-patterns", QKV + ["down_proj"], rank=4, alpha=8,
                    rank_pattern={"k_proj": 2, "layers.1.self_attn.q_proj": 7},
                    alpha_pattern={"v_proj": 3, "^model.layers.0.self_attn.q_proj": 11}),
            adapter("lora-rs", ["gate_proj", "up_proj"], rank=9, alpha=4, use_rslora=True),
            adapter("lora-regex", r".*layers\.[01]\.(self_attn\.(q|o)_proj|mlp\.up_proj)", rank=2, alpha=4),
            adapter("lora-layer", ["q_proj", "up_proj"], rank=4, alpha=8, layers_to_transform=[1]),
        ],
    },
    {
        "name": "granite-odd", "about": "biases, sizes that are multiples of nothing, heads 6 on 2, three layers",
        "kind": "granite", "dtype": "F32", "specials": GRANITE, "words": 11, "bos": None, "spelling": 4,
        "config": dict(hidden_size=42, intermediate_size=59, num_hidden_layers=3, num_attention_heads=6,
                       num_key_value_heads=2, head_dim=10, vocab_size=271, tie_word_embeddings=False,
                       attention_bias=True, mlp_bias=True, rms_norm_eps=1e-6, embedding_multiplier=2.0,
                       attention_multiplier=0.25, residual_multiplier=0.8, logits_scaling=1.3,
                       rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        "adapters": [
            adapter("lora-all", "all-linear", rank=5, alpha=9, dtype="F32"),
            adapter("alora-all", "all-linear", HEADER, rank=7, alpha=14, dtype="F32"),
        ],
    },
    {
        "name": "llama-bias", "about": "own head, attention and MLP biases, GQA 1:1, two shards with an index",
        "kind": "llama", "dtype": "F32", "specials": LLAMA, "words": 30, "bos": "<s>", "spelling": 5,
        "shard": "90KB",
        "config": dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=4, vocab_size=291, tie_word_embeddings=False, attention_bias=True,
                       mlp_bias=True, rms_norm_eps=1e-5,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "adapters": [
            adapter("lora-qkv", QKV, rank=8, alpha=16, dtype="F16"),
            adapter("alora-all", "all-linear", "<|assistant|>", rank=4, alpha=8),
        ],
    },
    {
        "name": "llama-odd", "about": "explicit head_dim 22, 5 heads on 1, odd hidden and ffn sizes",
        "kind": "llama", "dtype": "BF16", "specials": LLAMA, "words": 20, "bos": "<s>", "spelling": 4,
        "config": dict(hidden_size=55, intermediate_size=77, num_hidden_layers=2, num_attention_heads=5,
                       num_key_value_heads=1, head_dim=22, vocab_size=283, tie_word_embeddings=True,
                       rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "adapters": [
            adapter("lora-all", "all-linear", rank=3, alpha=5),
            adapter("alora-qkv", QKV, "<|user|>judge<|assistant|>", rank=32, alpha=32),
        ],
    },
    {
        "name": "llama-linear", "about": "rope linear, F16, heads 6 on 2",
        "kind": "llama", "dtype": "F16", "specials": LLAMA, "words": 24, "bos": None, "spelling": 4,
        "config": dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
                       num_key_value_heads=2, vocab_size=285, tie_word_embeddings=True, rms_norm_eps=1e-5,
                       rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.5}),
        "adapters": [
            adapter("lora-qkv", QKV, rank=4, alpha=4, dtype="F16"),
            adapter("alora-qkv", QKV, "<|assistant|>", rank=8, alpha=16, dtype="F16"),
        ],
    },
    {
        "name": "llama-llama3", "about": "rope llama3 with a short original context, BF16, heads 4 on 1",
        "kind": "llama", "dtype": "BF16", "specials": LLAMA, "words": 24, "bos": "<s>", "spelling": 5,
        "config": dict(hidden_size=64, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=1, vocab_size=285, tie_word_embeddings=True, rms_norm_eps=1e-5,
                       rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                                        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                        "original_max_position_embeddings": 64}),
        "adapters": [
            adapter("lora-all", "all-linear", rank=4, alpha=8),
            adapter("alora-all", "all-linear", "<|user|>", rank=4, alpha=8),
        ],
    },
    {
        "name": "hybrid", "about": "GraniteMoeHybrid, attention layers only, fused shared_mlp, spelling of version 4",
        "kind": "hybrid", "dtype": "BF16", "specials": GRANITE, "words": 20, "bos": None, "spelling": 4,
        "config": dict(hidden_size=40, intermediate_size=64, shared_intermediate_size=56, num_hidden_layers=2,
                       num_attention_heads=5, num_key_value_heads=1, vocab_size=280, tie_word_embeddings=True,
                       rms_norm_eps=1e-5, embedding_multiplier=3.0, attention_multiplier=0.3,
                       residual_multiplier=0.7, logits_scaling=0.8, num_local_experts=0, num_experts_per_tok=0,
                       position_embedding_type="rope", mamba_n_heads=8, mamba_d_head=10,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "adapters": [
            adapter("lora-mlp", ["shared_mlp.input_linear", "shared_mlp.output_linear"], rank=6, alpha=12),
            adapter("alora-all", "all-linear", HEADER, rank=8, alpha=16),
            adapter("alora-in", ["q_proj", "input_linear"], HEADER, rank=4, alpha=8),
        ],
    },
    {
        "name": "hybrid-nope", "about": "GraniteMoeHybrid without rotary positions, spelling of version 5, own head",
        "kind": "hybrid", "dtype": "F16", "specials": GRANITE, "words": 20, "bos": None, "spelling": 5,
        "config": dict(hidden_size=32, intermediate_size=64, shared_intermediate_size=45, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, vocab_size=280, tie_word_embeddings=False,
                       rms_norm_eps=1e-5, embedding_multiplier=2.0, attention_multiplier=0.35,
                       residual_multiplier=0.9, logits_scaling=1.1, num_local_experts=0, num_experts_per_tok=0,
                       position_embedding_type=None, mamba_n_heads=8, mamba_d_head=8,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "adapters": [
            adapter("alora-all", "all-linear", HEADER, rank=4, alpha=8, dtype="F16"),
        ],
    },
]

# Prompts as text; {role:x} becomes the family's header. Random ids come on top (make_models.py).
TEXTS = {
    "granite": [
        "<|start_of_role|>user<|end_of_role|>How many blocks?<|end_of_text|>\n" + HEADER,
        "<|start_of_role|>user<|end_of_role|>One.<|end_of_text|>\n<|start_of_role|>check<|end_of_role|>"
        "yes<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Two?<|end_of_text|>\n"
        "<|start_of_role|>check<|end_of_role|>",
        "Grüße, 世界 🙂 — tell me",
        "<|start_of_role|>user<|end_of_role|>Sure?<|end_of_text|>\n<|start_of_role|>certainty<|end_of_role|>",
    ],
    "llama": [
        "<|user|>How many blocks?<|assistant|>",
        "<|user|>One.<|assistant|>Yes.<|user|>judge<|assistant|>",
        "Grüße, 世界 🙂 — tell me",
    ],
}
TEXTS["hybrid"] = TEXTS["granite"][:3]
