"""Trains the demo's two adapters with PEFT, a LoRA and an aLoRA for the same task, and scores them.

    python bench/demo_train.py [--check]        torch 2.13, transformers 5.19, peft 0.21.2; two cores, minutes

Reads the real model (bench/fetch_model) and bench/demo_data.py; writes bench/demo_adapters/. --check only scores
what is there. The base model is frozen; the loss is on the answer alone.
"""
import argparse
import json
import pathlib
import random
import sys
import time

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import demo_data
import gguf_model

HERE = pathlib.Path(__file__).parent
GGUF = HERE.parent / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
ADAPTERS = HERE / "demo_adapters"
LAYERS = list(range(15, 30))   # the upper half: enough for the task, and half the size
SETTINGS = {
    "triage-lora": dict(r=8, lora_alpha=16, lr=1e-3),
    "triage-alora": dict(r=16, lora_alpha=32, lr=1e-3),
}
EXAMPLES, BATCH = 1200, 8


def encode(tok, example):
    messages = [*example["messages"], {"role": "assistant", "content": example["reply"]}]
    prompt = tok.encode(demo_data.render(messages, "team")).ids
    return prompt, tok.encode(example["team"] + "<|im_end|>").ids


def batch_of(rows):
    """Pads on the left, so that every row ends with its answer."""
    width = max(len(p) + len(a) for p, a in rows)
    ids = torch.full((len(rows), width), 2)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, width - len(prompt) - len(answer):] = torch.tensor(prompt + answer)
        mask[i, width - len(prompt) - len(answer):] = 1
        labels[i, width - len(answer):] = torch.tensor(answer)
    return ids, mask, labels


def train(name, setting, base, tok):
    torch.manual_seed(7)
    rng = random.Random(7)
    invocation = tok.encode(demo_data.INVOCATION).ids if name.endswith("alora") else None
    config = LoraConfig(task_type="CAUSAL_LM", r=setting["r"], lora_alpha=setting["lora_alpha"],
                        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], layers_to_transform=LAYERS,
                        alora_invocation_tokens=invocation, base_model_name_or_path="SmolLM2-135M-Instruct")
    model = get_peft_model(base, config)
    rows = [encode(tok, e) for e in demo_data.examples("training", EXAMPLES, held_out=False)]
    rng.shuffle(rows)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=setting["lr"], weight_decay=0.0)
    steps = len(rows) // BATCH
    started, seen = time.time(), 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = setting["lr"] * min(1, (step + 1) / 8) * (1 - step / steps)
        ids, mask, labels = batch_of(rows[step * BATCH:(step + 1) * BATCH])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=8).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, -7:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += int(mask.sum())
        if step % 10 == 9:
            print(f"{name}: step {step + 1}/{steps}, loss {loss.item():.4f},"
                  f" {seen / (time.time() - started):.0f} tokens/s", flush=True)
    write(model, name)
    return model.unload()


def write(model, name):
    out = ADAPTERS / name
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    weights = load_file(out / "adapter_model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in weights.items()}, out / "adapter_model.safetensors",
              metadata={"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)
    path = out / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = "SmolLM2-135M-Instruct"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def score(model, tok, label):
    right = 0
    examples = demo_data.examples("held out", 48, held_out=True)
    for example in examples:
        prompt, _ = encode(tok, example)
        out = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                             max_new_tokens=5, do_sample=False)
        right += tok.decode(out[0, len(prompt):].tolist()).strip() == example["team"]
    print(f"{label}: {right} of {len(examples)} held-out conversations right", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only score the adapters in bench/demo_adapters")
    parser.add_argument("names", nargs="*", default=list(SETTINGS))
    args = parser.parse_args()
    tok = gguf_model.load_tokenizer(GGUF)
    base = gguf_model.load_model(GGUF)
    for name in args.names:
        if not args.check:
            base = train(name, SETTINGS[name], base, tok)
        model = PeftModel.from_pretrained(base, ADAPTERS / name).eval()
        score(model, tok, name)
        base = model.unload()


if __name__ == "__main__":
    sys.exit(main())
