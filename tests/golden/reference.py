"""Reference answers of transformers + PEFT, in float64, with the K/V cache on.

transformers' norms compute in float32 whatever the model's dtype is, so here they are replaced by float64
ones; rotary angles stay as transformers has them (float32), being part of what the model is.

A case is greedy: the prompt, then GENERATED tokens. Each answer comes from PEFT's own generate(); the log
probabilities of the prompt from its forward(); both are checked against a forward of the whole sequence on
the bare model whose linears add the adapter's delta by a mask over positions, an independent way to the
same numbers. The float32 and bfloat16 of transformers then run over the same tokens, to see how far each is.
"""
import json
import math
import types

import torch
from peft import LoraConfig, PeftModel

GENERATED = 12
BEST = 5
BEST_POSITIONS = 40   # prompts up to this length have the best five at every position


def log_probabilities(logits):
    return torch.log_softmax(logits.double(), dim=-1)


def find_activation(ids, invocation):
    """First adapted position as Mica reports it: None for base and where it is not found."""
    if invocation == []:
        return len(ids) - 1
    starts = [i for i in range(len(ids)) if ids[i:i + len(invocation)] == invocation]
    return starts[-1] if starts else None


def widen_norms(model):
    """RMS norms in float64."""
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(forward, module)
    return model


class Runner:
    def __init__(self, folder, model_class, adapters=None):
        self.folder, self.model_class = folder, model_class
        self.adapters = adapters or folder / "adapters"
        self.name = self.invocation = None

    def load(self, dtype):
        base = self.model_class.from_pretrained(self.folder, dtype=dtype)
        if dtype == torch.float64:
            widen_norms(base)
        if self.name is None:
            return base.eval()
        path = self.adapters / self.name
        config = LoraConfig.from_pretrained(path)
        # PEFT no longer reads the legacy texts, and ignores offsets where the invocation is empty.
        config.alora_invocation_tokens = [0] if self.invocation == [] else self.invocation
        model = PeftModel.from_pretrained(base, path, config=config)
        if dtype == torch.float64:
            model.double()
        return model.eval()

    def use(self, name, invocation):
        """invocation: None for LoRA."""
        self.name, self.invocation = name, invocation
        self.models = {d: self.load(d) for d in (torch.float64, torch.float32, torch.bfloat16)}
        self.bare = widen_norms(self.model_class.from_pretrained(self.folder, dtype=torch.float64)).eval()
        self.masked_layers = self.hook_bare() if name is not None else []

    def hook_bare(self):
        """Adds scaling * B(A x) behind a mask to the bare model's linears."""
        self.from_position = 0
        layers = {n: m for n, m in self.models[torch.float64].base_model.model.named_modules()
                  if hasattr(m, "lora_A") and len(m.lora_A)}
        hooks = []
        for name, module in self.bare.named_modules():
            if name not in layers:
                continue
            a = layers[name].lora_A["default"].weight.detach()
            b = layers[name].lora_B["default"].weight.detach()
            scaling = layers[name].scaling["default"]

            def add(_, inputs, output, a=a, b=b, scaling=scaling):
                delta = scaling * (inputs[0] @ a.T @ b.T)
                delta[:, :self.from_position] = 0
                return output + delta

            hooks.append(module.register_forward_hook(add))
        assert len(hooks) == len(layers) > 0
        return hooks

    def offsets(self, ids, activation):
        return {} if self.invocation is None else {"alora_offsets": [0 if activation is None
                                                                     else len(ids) - activation]}

    @torch.no_grad()
    def over(self, model, ids, tokens, activation):
        """Log probabilities at every position but the last of ids + tokens, by prefill and decode on a cache."""
        extra = self.offsets(ids, activation)
        out = model(input_ids=torch.tensor([ids]), use_cache=True, **extra)
        rows = [log_probabilities(out.logits[0])]
        if extra:
            extra = {"alora_offsets": [0 if activation is None else 1]}
        for token in tokens[:-1]:
            out = model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True,
                        **extra)
            rows.append(log_probabilities(out.logits[0]))
        return torch.cat(rows)

    @torch.no_grad()
    def generate(self, ids, activation):
        model = self.models[torch.float64]
        if self.invocation == []:
            return self.generate_by_hand(ids, activation)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        out = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                             max_new_tokens=GENERATED, do_sample=False, use_cache=True,
                             return_dict_in_generate=True, output_logits=True)
        tokens = out.sequences[0, len(ids):].tolist()
        return tokens, log_probabilities(torch.cat(out.logits))

    def generate_by_hand(self, ids, activation):
        """PEFT has no offsets for an empty invocation; they are handed to it."""
        tokens = []
        for _ in range(GENERATED):
            rows = self.over(self.models[torch.float64], ids, [*tokens, 0], activation)
            tokens.append(int(rows[-1].argmax()))
        return tokens, self.over(self.models[torch.float64], ids, tokens, activation)[len(ids) - 1:]

    @torch.no_grad()
    def case(self, number, text, ids):
        activation = 0
        if self.name is None:
            activation = None
        elif self.invocation is not None:
            activation = find_activation(ids, self.invocation)
        tokens, generated = self.generate(ids, activation)
        exact = self.over(self.models[torch.float64], ids, tokens, activation)
        assert (exact[len(ids) - 1:] - generated).abs().max() < 1e-5   # generate() rounds its logits to float32
        assert tokens == exact[len(ids) - 1:].argmax(-1).tolist()
        self.from_position = 10 ** 9 if activation is None else activation
        masked = log_probabilities(self.bare(input_ids=torch.tensor([ids + tokens[:-1]])).logits[0])
        assert (masked - exact).abs().max() < 1e-9, (self.name, number)

        followed = torch.tensor(ids[1:] + tokens)[:, None]
        mine = exact.gather(1, followed)[:, 0]
        case = {"name": f"{self.name or 'base'}-{number}", "adapter": self.name, "activation": activation,
                "prompt": text, "prompt_ids": ids, "tokens": tokens}
        for dtype, key in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
            off = (self.over(self.models[dtype], ids, tokens, activation).gather(1, followed)[:, 0] - mine).abs()
            case[key + "_off"] = float(f"{off.max().item():.3e}")
            case[key + "_squares"] = float(f"{(off * off).sum().item():.3e}")
        best = exact.topk(BEST)
        every = len(ids) <= BEST_POSITIONS
        rows = [[mine[i].item()] + ([[t, v] for t, v in zip(best.indices[i].tolist(), best.values[i].tolist())]
                                    if every or i >= len(ids) - 1 else []) for i in range(len(mine))]
        case["prompt_logprobs"], case["logprobs"] = rows[:len(ids) - 1], rows[len(ids) - 1:]
        case["narrowest"] = min(math.inf, *((r[1][1] - r[2][1]) for r in case["logprobs"]))
        return case


def compact(value):
    if isinstance(value, float):
        return f"{value:.8f}".rstrip("0").rstrip(".") if abs(value) >= 1e-3 else f"{value:.4e}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {compact(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def write_cases(path, spec, cases):
    head = {"model": spec["name"], "about": spec["about"]}
    lines = ",\n".join(compact(c) for c in cases)
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
