"""Records the reference's answers of the real model, with and without the demo's adapters.

    python tests/golden/make_real.py        needs bench/fetch_model; torch 2.13, transformers 5.19, peft 0.21.2

The GGUF tensors are dequantised to float32; the computation is float64's (see reference.py).
"""
import pathlib
import sys
import warnings

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))
import demo_data  # noqa: E402
import gguf_model  # noqa: E402
import reference  # noqa: E402

ADAPTERS = HERE.parents[1] / "bench/demo_adapters"
MODEL = HERE.parents[1] / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
PLAIN = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
    demo_data.render([{"role": "user", "content": "What is 12 + 30? Größe 🙂"}]),
]


class FromGguf:
    """Stands where reference.Runner expects a model class."""

    @staticmethod
    def from_pretrained(_, dtype):
        return gguf_model.load_model(MODEL, dtype)


def conversation(tok, index):
    example = demo_data.examples("held out", 48, held_out=True)[index]
    messages = [*example["messages"], {"role": "assistant", "content": example["reply"]}]
    text = demo_data.render(messages, "team")
    return text, tok.encode(text).ids


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    tok = gguf_model.load_tokenizer(MODEL)
    runner = reference.Runner(ADAPTERS.parent, FromGguf, adapters=ADAPTERS)
    cases = []
    for name in (None, "triage-lora", "triage-alora"):
        runner.use(name, tok.encode(demo_data.INVOCATION).ids if name == "triage-alora" else None)
        prompts = [(t, tok.encode(t).ids) for t in PLAIN] if name is None else []
        for text, ids in [*prompts, conversation(tok, 3)]:
            with torch.no_grad():
                cases.append(runner.case(len(cases), text, ids))
            print(cases[-1]["name"], repr(tok.decode(cases[-1]["tokens"])), f"{cases[-1]['float32_off']:.1e}",
                  f"{cases[-1]['bfloat16_off']:.1e}", flush=True)
    spec = {"name": MODEL.stem, "about": "GGUF tensors dequantised; some of them with the demo's adapters"}
    reference.write_cases(HERE / "real_model.json", spec, cases)


if __name__ == "__main__":
    main()
