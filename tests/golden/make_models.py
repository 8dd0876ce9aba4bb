"""Makes the golden set anew: tiny models, their PEFT adapters and the reference's answers.

    python tests/golden/make_models.py [NAME...]        torch 2.13, transformers 5.19, peft 0.21.2

Writes tests/golden/models/NAME/ as Hugging Face and PEFT write such directories, and cases.json beside
config.json. The same versions give the same files. Mica's tests read the files and never import torch.
"""
import json
import pathlib
import random
import shutil
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import reference
import zoo

HERE = pathlib.Path(__file__).parent
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CLASSES = {
    "granite": (transformers.GraniteConfig, transformers.GraniteForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "hybrid": (transformers.GraniteMoeHybridConfig, transformers.GraniteMoeHybridForCausalLM),
}
TRAINING_TEXT = [
    "user assistant check certainty judge How many blocks of tokens are there in the cache? Tell me.",
    "The cache holds the keys and the values of the tokens, and the blocks are shared between the users.",
    "tell me the answer, tell them the answer; the blocks, the tokens, the adapters.",
]


def make_tokenizer(spec):
    """Byte-level BPE with few merges; the two families differ in what can differ in the file."""
    tok = Tokenizer(models.BPE())
    if spec["kind"] == "llama":
        split = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                      r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    specials = [AddedToken(s, special=True, normalized=False) for s in spec["specials"]]
    trainer = trainers.BpeTrainer(vocab_size=256 + len(specials) + spec["words"], special_tokens=specials,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  min_frequency=1)
    tok.train_from_iterator(TRAINING_TEXT, trainer)
    if spec["bos"]:
        bos = spec["bos"]
        tok.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                          special_tokens=[(bos, tok.token_to_id(bos))])])
    else:
        tok.post_processor = processors.ByteLevel(trim_offsets=True)
    return tok


def write_tokenizer(tok, spec, folder):
    data = json.loads(tok.to_str())
    if spec["spelling"] == 4:
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def enliven(model, generator):
    """Weights that make every term matter: gains of 1.4 / sqrt(fan in), embeddings 0.3, norms 1 +- 0.2."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if "norm" in name:
            value = 1 + 0.2 * noise
        elif name.endswith("bias"):
            value = 0.2 * noise
        elif "embed_tokens" in name:
            value = 0.3 * noise
        else:
            value = 1.4 * noise / p.shape[-1] ** 0.5
        p.data.copy_(value)


def rewrite_config(folder, spec):
    """Spells config.json as transformers 4 did, where the entry asks for it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if spec["spelling"] == 4:
        rope = dict(config.pop("rope_parameters"))
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        if rope["rope_type"] == "linear":
            config["rope_scaling"] = {"type": "linear", "factor": rope["factor"]}
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.57.1"
        if "layer_types" in config:
            config["layer_types"] = ["attention"] * config["num_hidden_layers"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_model(spec, folder):
    config_class, model_class = CLASSES[spec["kind"]]
    tok = make_tokenizer(spec)
    eos = tok.token_to_id("<|end_of_text|>" if spec["kind"] != "llama" else "</s>")
    bos = tok.token_to_id(spec["bos"]) if spec["bos"] else eos
    extra = {}
    if spec["kind"] == "hybrid":
        extra["layer_types"] = ["full_attention"] * spec["config"]["num_hidden_layers"]
    config = config_class(max_position_embeddings=512, bos_token_id=bos, eos_token_id=eos, pad_token_id=None,
                          **spec["config"], **extra)
    generator = torch.Generator().manual_seed(sum(map(ord, spec["name"])))
    model = model_class(config)
    enliven(model, generator)
    model.to(DTYPES[spec["dtype"]])
    model.config.dtype = DTYPES[spec["dtype"]]
    model.save_pretrained(folder, max_shard_size=spec.get("shard", "5GB"))
    generation = {"eos_token_id": [eos, eos + 3], "bos_token_id": bos, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")
    rewrite_config(folder, spec)
    write_tokenizer(tok, spec, folder)
    return tok, model_class


def invocation_of(a, tok):
    """-> (ids or None, text of a legacy key or None, the legacy key)"""
    want = a["invocation"]
    if want is None or isinstance(want, list):
        return want, None, None
    for prefix, key in (("legacy:", "invocation_string"), ("legacy-alora:", "alora_invocation_string")):
        if want.startswith(prefix):
            text = want[len(prefix):]
            return tok.encode(text, add_special_tokens=False).ids, text, key
    return tok.encode(want, add_special_tokens=False).ids, None, None


def make_adapter(a, spec, folder, model_class, tok, seed):
    ids, legacy_text, legacy_key = invocation_of(a, tok)
    config = LoraConfig(task_type="CAUSAL_LM", r=a["rank"], lora_alpha=a["alpha"], target_modules=a["targets"],
                        alora_invocation_tokens=ids, base_model_name_or_path=spec["name"], **a["peft"])
    model = get_peft_model(model_class.from_pretrained(folder, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            gain = 1.0 if "lora_A" in name else 0.5
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.data.copy_(gain * noise / p.shape[-1] ** 0.5)
    out = folder / "adapters" / a["name"]
    model.save_pretrained(out)
    (out / "README.md").unlink()
    weights = load_file(out / "adapter_model.safetensors")
    save_file({k: v.to(DTYPES[a["dtype"]]) for k, v in weights.items()}, out / "adapter_model.safetensors",
              metadata={"format": "pt"})
    path = out / "adapter_config.json"
    written = json.loads(path.read_text())
    written["base_model_name_or_path"] = spec["name"]
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()
    written.update(a["written"])
    if legacy_key:
        written[legacy_key] = legacy_text
        written["alora_invocation_tokens"] = None
    for key in a["drop"]:
        written.pop(key)
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    return ids


def prompts_of(spec, tok, rng):
    """(text or None, ids, whether all positions get their best five)"""
    vocab = spec["config"]["vocab_size"]
    out = []
    for text in zoo.TEXTS[spec["kind"]]:
        out.append((text, tok.encode(text).ids))
    out.append((None, [rng.randrange(vocab)]))
    for length in (33, 150):
        out.append((None, [rng.randrange(vocab) for _ in range(length)]))
    return out


def plant(ids, invocation, rng):
    """Puts the invocation into random ids, twice and not at the end, so that only a real search finds it."""
    ids = list(ids)
    if not invocation:
        return ids
    count = len(invocation)
    for at in (len(ids) // 4, len(ids) * 2 // 3 + rng.randrange(3)):
        ids[at:at + count] = invocation
    return ids


def make_cases(spec, folder, model_class, tok, invocations):
    rng = random.Random(spec["name"])
    runner = reference.Runner(folder, model_class)
    prompts = prompts_of(spec, tok, rng)
    cases = []
    for name in [None, *invocations]:
        invocation = invocations.get(name)
        chosen = prompts if len(spec["adapters"]) < 5 or name is None else rng.sample(prompts[:4], 2) + prompts[5:]
        if len(invocations) > 5 and name is not None:
            chosen = chosen[:3] if name.startswith("lora") else chosen
        runner.use(name, invocation)
        for text, ids in chosen:
            if text is None and len(ids) > 20:
                ids = plant(ids, invocation, rng)
            cases.append(runner.case(len(cases), text, ids))
    return cases


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for spec in zoo.MODELS:
        if len(sys.argv) > 1 and spec["name"] not in sys.argv[1:]:
            continue
        folder = HERE / "models" / spec["name"]
        shutil.rmtree(folder, ignore_errors=True)
        tok, model_class = make_model(spec, folder)
        invocations = {}
        for index, a in enumerate(spec["adapters"]):
            invocations[a["name"]] = make_adapter(a, spec, folder, model_class, tok, 1000 + index)
        cases = make_cases(spec, folder, model_class, tok, invocations)
        reference.write_cases(folder / "cases.json", spec, cases)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{spec['name']}: {len(cases)} cases, {size} bytes,"
              f" float32 off by {max(c['float32_off'] for c in cases):.1e},"
              f" bfloat16 by {max(c['bfloat16_off'] for c in cases):.1e}")


if __name__ == "__main__":
    main()
