#!/usr/bin/env python3
"""Records tests/golden/adapters/matches.json: for many adapter configs, which modules of a tiny Llama PEFT
adapts, with which rank and scaling, or that PEFT refuses the config. Needs torch, transformers and peft
(recorded with peft 0.21.2).

usage: make_adapter_matches.py [OUT]
"""
import json
import os
import random
import sys
import tempfile
import warnings

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS = 12
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
PATHS = [f"model.layers.{layer}.{module}" for layer in range(LAYERS) for module in MODULES]
SHORT = [m.split(".")[1] for m in MODULES]

BY_HAND = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": "ALL-Linear", "exclude_modules": ["down_proj"]},
    {"target_modules": "all-linear", "exclude_modules": r".*\.(gate|up)_proj"},
    {"target_modules": r".*\.layers\.(0|2|11)\.self_attn\.(q|k|v)_proj"},
    {"target_modules": r"model\.layers\.\d+\.mlp\..*"},
    {"target_modules": r"layers\.\d+\.mlp\..*"},
    {"target_modules": r"(?i)MODEL\.LAYERS\.1{1,2}\.SELF_ATTN\.\w+"},
    {"target_modules": r"model\.layers\.1{,2}\.self_attn\.[^qk]_proj"},
    {"target_modules": r".*(q_proj|k_proj)$"},
    {"target_modules": r".*q_pro"},
    {"target_modules": r"q_proj|v_proj"},
    {"target_modules": r".*\.q_proj|.*\.v_proj"},
    {"target_modules": ["proj"]},
    {"target_modules": ["nothing", "q_proj"]},
    {"target_modules": []},
    {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"], "layers_to_transform": [0]},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj"], "layers_to_transform": [1, 10], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1, 10], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1, 10], "layers_pattern": ["h"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": []},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ""},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "lay(er)?s"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "ayers"},
    {"target_modules": ["q_proj"], "layers_pattern": "layers"},
    {"target_modules": ".*q_proj", "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.1.self_attn.q_proj", "k_proj"]},
    {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    {"target_modules": ["q_proj"], "exclude_modules": "q_proj"},
    {"target_modules": ["q_proj"], "exclude_modules": ""},
    {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 7, "rank_pattern": {"q_proj": 2}},
    {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"proj": 2}},
    {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {".*proj": 2, "q_proj": 3}},
    {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"^q_proj": 2, "layers.1.self_attn.v_proj": 3}},
    {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"^model.layers.1.self_attn.v_proj": 3}},
    {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {r"layers\.1\d?\..*": 5.5}, "use_rslora": True},
    {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj|v_proj": 3}, "rank_pattern": {"a)|(q_proj": 3}},
    {"target_modules": ["q_proj"], "lora_alpha": 0},
    {"target_modules": ["q_proj"], "lora_alpha": -3.25},
    {"target_modules": ["q_proj"], "r": 0},
    {"target_modules": ["q_proj"], "r": -1},
    {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 0}},
    {"target_modules": ["q_proj"], "r": 3, "use_rslora": True, "lora_alpha": 16},
    {"target_modules": ["q_proj", "v_proj"], "target_parameters": []},
    {"target_modules": "*q_proj"},
    {"target_modules": ["q_proj"], "rank_pattern": {"(": 2}},
]


def random_config(rng):
    def some(items, most):
        return rng.sample(items, rng.randint(1, most))

    def name():
        short = rng.choice(MODULES)
        layer = rng.randrange(LAYERS)
        return rng.choice([short.split(".")[1], short, f"layers.{layer}.{short}", f"model.layers.{layer}.{short}"])

    def regex():
        ones = "|".join(some(SHORT, 3))
        return rng.choice([rf".*\.({ones})", rf"model\.layers\.[{rng.randrange(9)}-9]\..*({ones})", rf".*({ones})?",
                           rf"model\.layers\.(?!{rng.randrange(LAYERS)}\.).*\.({ones})",
                           rf".*\.(?P<n>\d+)\.\w+\.({ones})$", rf"(?:\w+\.)+({ones})",
                           rf".*[{rng.choice('qkvo')}]_proj"])

    config = {"target_modules": rng.choice(["all-linear", regex(), some(SHORT, 5), [name() for _ in range(3)]])}
    if rng.random() < 0.3:
        config["exclude_modules"] = rng.choice([regex(), [name()], some(SHORT, 2)])
    if isinstance(config["target_modules"], list) and rng.random() < 0.4:
        config["layers_to_transform"] = rng.choice([rng.randrange(LAYERS), some(list(range(LAYERS)), 4)])
        if rng.random() < 0.5:
            config["layers_pattern"] = rng.choice(["layers", ["blocks", "layers"], "l.*s"])
    for key, values in (("rank_pattern", [1, 2, 3, 5, 16]), ("alpha_pattern", [1, 2.5, 32, 7])):
        if rng.random() < 0.5:
            config[key] = {rng.choice([name(), regex(), name() + "|" + name(), "^" + name()]): rng.choice(values)
                           for _ in range(rng.randint(1, 3))}
    config["r"] = rng.choice([1, 4, 8])
    config["lora_alpha"] = rng.choice([8, 16, 0.5, 13])
    config["use_rslora"] = rng.random() < 0.3
    return config


def what_peft_does(model_config, config):
    """None where it refuses, else [rank, scaling] or 0 for each of PATHS."""
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "adapter_config.json"), "w") as f:
            json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", **config}, f)
        try:
            with torch.device("meta"):
                model = LlamaForCausalLM(model_config)
                model = get_peft_model(model, LoraConfig.from_pretrained(directory))
        except Exception as error:
            # a regex that reaches a module which can't be adapted says nothing about the others
            return None, "reaches too far" if "is not supported" in str(error) else type(error).__name__
    found = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not set(found) <= set(PATHS):
        return None, "reaches too far"
    return [[found[p].r["default"], found[p].scaling["default"]] if p in found else 0 for p in PATHS], ""


def main():
    warnings.simplefilter("ignore")
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "adapters", "matches.json")
    rng = random.Random(11)
    model_config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=LAYERS,
                               num_attention_heads=2, num_key_value_heads=1)
    cases = []
    for config in BY_HAND + [random_config(rng) for _ in range(100)]:
        modules, why = what_peft_does(model_config, config)
        if why == "reaches too far":
            continue
        cases.append({"config": config, "modules": modules, **({"why": why} if why else {})})
    with open(out, "w") as f:
        f.write('{"paths": ' + json.dumps(PATHS) + ',\n "cases": [\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        f.write("\n]}\n")
    print(len(cases), "cases,", sum(c["modules"] is None for c in cases), "refused")


if __name__ == "__main__":
    main()
