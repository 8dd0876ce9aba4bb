#!/usr/bin/env python3
"""Compares Mica's tokenizer with the `tokenizers` library on random strings: ids, and texts of random ids.

usage: compare_hf.py TOK_CLI [--cases N] [--variants N] [--seed N] [--gguf FILE] [--text FILE.json]

N strings go to each tokenizer of tests/golden/tokenizers, to --variants random chains of normalizers,
pre-tokenizers and added tokens over their vocabularies, and to the one in a GGUF file. Ends with
"N passed, N failed"; a failure prints the file to repeat it with.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["RUST_BACKTRACE"] = "0"  # of the library's panics, which are slow to print

from tokenizers import Tokenizer, models, pre_tokenizers, decoders, AddedToken

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/tokenizers"

SPACES = [0x20] * 12 + [9, 10, 10, 10, 13, 11, 12, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2003, 0x2009, 0x200A, 0x200B,
                        0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF, 0x1C, 0x1F]
RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0, 0x1F), (0x7F, 0x9F), (0x370, 0x3FF), (0x400, 0x52F),
          (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F),
          (0x20A0, 0x2BFF), (0x2460, 0x24FF), (0x3040, 0x30FF), (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xA640, 0xA7FF),
          (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFFFD), (0x10000, 0x10FFF),
          (0x11000, 0x11FFF), (0x13430, 0x14400), (0x16000, 0x16FFF), (0x1B000, 0x1BFFF), (0x1D100, 0x1D7FF),
          (0x1DF00, 0x1F0FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1FAFF), (0x2EBF0, 0x2F800), (0x2F800, 0x2FA1F),
          (0x31340, 0x323B0), (0xE0001, 0xE01EF), (0x10FF00, 0x10FFFF)]
MARKS = [0x300, 0x301, 0x302, 0x304, 0x307, 0x308, 0x30A, 0x316, 0x323, 0x327, 0x328, 0x334, 0x338, 0x345, 0x35C,
         0x5B0,
         0x64B, 0x93C, 0x94D, 0x3099, 0x309A, 0x1AB0, 0x1DF6, 0x20D0, 0x7FD, 0x898, 0xEBA, 0x11930, 0x16FF0, 0x1D165,
         0x1E130, 0x897, 0x1E4EC, 0x11F41]
PIECES = ["'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'lL", "'d", "'\u017f", "'\u212a", "\u2019s", "\u0130",
          "\u0131",
          "\u1e9e", "\u00df", "\u01c5", "\ufb01", "\u2126", "\u212b", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u00b2",
          "\u00bd", "\u2167", "\u0663\u0664", "\u4e09", "\u0e01\u0e33", "\U0001f469\u200d\U0001f467", "\u2764\ufe0f",
          "\U0001f1e9\U0001f1ea", "\r\n", "\n\n", "  ", "\t", "\ufeff", "\x00", "...", "!?", "//", "<|", "|>", "_",
          "--", "\u180e", "\u0345", "\u24d0", "\U0001f130", "\u200d", "\u0fb2\u0f71\u0f80", "\u1b06",
          "\U00011935\U00011930", "\U000105d2\u0307", "ab", "0", "00", "Caf\u00c9", "cafe\u0301", "word", "two words",
          "<tool>"]
WORDS = ("the of and hello World token izer it I don won they naive Strasse x y int main return def self None "
         "1999").split()
REGEXES = [r"\s+", r"\p{N}", r"\p{L}+", r" ?\p{P}+", r"[^\s\p{L}\p{N}]+", r"\w+", r"[\w']+", r"\W", r"[^\S\n]+",
           r"\d{1,3}",
           r"\d{2}(?=\d)", r"(?<!\p{L})\p{Lu}", r"[\p{L}\p{M}]+", r".", r"(?m).{1,3}", r"^", r"$", r"\s+$", r"^\s+",
           r"\D+",
           r"[a-fA-F\d]+", r"\h{2}", r"(?i:the|[aeiou])", r"(?i)x|of", r"\S*", r"[^\P{L}a-z]", r"[\W\d]", r"\p{Han}+",
           r"\p{^L}+", r"(\p{L})(?:\p{N}|\s)?", r"\v|\t|\x{85}|\u00a0", r"(?>\s+)\S", r"\p{Ll}*?\p{Lu}",
           r"a{,2}b|x{2,}",
           r"[\r\n]", r"(?:\p{L}{2})+", r"\p{S}|\p{M}+", r"[!-/:-@]+", r"\p{N}{1,3}+", r"\A.|.\z|\Z", r"",
           r"\p{Cf}|\p{Z}"]

EMPTY = (r"^", r"$", r"\S*", r"", r"\A.|.\z|\Z")  # those that match where nothing is


def random_character(rng):
    kind = rng.random()
    if kind < 0.1:
        c = rng.randrange(0x110000)
    elif kind < 0.2:
        c = rng.choice(SPACES)
    elif kind < 0.27:
        c = rng.choice(MARKS)
    else:
        c = rng.randint(*rng.choice(RANGES))
    return "a" if 0xD800 <= c < 0xE000 else chr(c)


def random_string(rng, contents):
    out = []
    for _ in range(rng.choice((1, 2, 3, 5, 8, 13, 21))):
        kind = rng.random()
        if kind < 0.25:
            out.append(rng.choice(WORDS) + rng.choice(("", " ", "'s", " ", "\n")))
        elif kind < 0.35:
            out.append(rng.choice(PIECES))
        elif kind < 0.45:
            out.append("".join(chr(rng.choice(SPACES)) for _ in range(rng.choice((1, 2, 3, 7)))))
        elif kind < 0.52:
            out.append(str(rng.randrange(10 ** rng.randrange(1, 12))))
        elif kind < 0.58:
            out.append(random_character(rng) * rng.choice((2, 3, 4, 17, 60, 130)))
        elif kind < 0.64:
            out.append("".join(chr(rng.choice(MARKS)) for _ in range(rng.choice((1, 2, 4, 20)))))
        elif kind < 0.72 and contents:
            out.append(rng.choice(contents))
        elif kind < 0.76:
            out.append(rng.choice(WORDS).swapcase())
        else:
            out.append("".join(random_character(rng) for _ in range(rng.choice((1, 1, 2, 5)))))
    return "".join(out)


def random_pattern(rng):
    if rng.random() < 0.8:
        return {"Regex": rng.choice(REGEXES)}
    return {"String": rng.choice((" ", "a", "ab", "\n", ".", "--"))}


def random_normalizer(rng):
    kind = rng.choice(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Prepend", "Replace", "Strip"))
    one = {"type": kind}
    if kind == "Prepend":
        one["prepend"] = rng.choice(("_", " ", "ab "))
    elif kind == "Replace":
        one.update(pattern=random_pattern(rng), content=rng.choice(("", " ", "_", "xy")))
        while one["pattern"].get("Regex") in EMPTY:  # the library loses its offsets there, and panics
            one["pattern"] = random_pattern(rng)
    elif kind == "Strip":
        one.update(strip_left=rng.random() < 0.6, strip_right=rng.random() < 0.6)
    return one


def random_pre(rng):
    behavior = rng.choice(("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
    kind = rng.choice(("Split", "Split", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit",
                       "ByteLevel"))
    one = {"type": kind}
    if kind == "Split":
        one.update(pattern=random_pattern(rng), behavior=behavior, invert=rng.random() < 0.3)
    elif kind == "Digits":
        one["individual_digits"] = rng.random() < 0.5
    elif kind == "Punctuation":
        one["behavior"] = behavior
    elif kind == "ByteLevel":
        one.update(add_prefix_space=rng.random() < 0.4, trim_offsets=True, use_regex=rng.random() < 0.5)
    return one


def random_variant(rng, base):
    whole = json.loads(json.dumps(base))
    if rng.random() < 0.6:
        whole["normalizer"] = {"type": "Sequence",
                               "normalizers": [random_normalizer(rng) for _ in range(rng.randint(1, 3))]}
    pres = [random_pre(rng) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.9:
        pres.append({"type": "ByteLevel", "add_prefix_space": rng.random() < 0.3, "trim_offsets": True,
                     "use_regex": rng.random() < 0.4})
    whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": pres}
    whole["decoder"] = rng.choice((None, {"type": "Fuse"}, {"type": "ByteLevel", "add_prefix_space": True,
                                                            "trim_offsets": True, "use_regex": True}))
    whole["model"]["ignore_merges"] = rng.random() < 0.3
    whole["model"]["fuse_unk"] = rng.random() < 0.3
    for _ in range(rng.choice((0, 2, 6))):
        content = rng.choice(("<a>", "<ab>", "<a><b>", "x", "the", " ", "\n", "  ", "Caf\u00e9", "\u00c9", "<b> ",
                              " <c>", "A", "e\u0301", "日本", "\u1e9e", "'s", "1", "<|endoftext|>", "\u017f", "\ufb01"))
        whole["added_tokens"].append({"id": 0, "content": content, **{
            flag: rng.random() < 0.35 for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}})
    return whole


def library_answer(call):
    try:
        return call()
    except BaseException as failure:  # the library panics on some overlaps of added tokens
        if isinstance(failure, KeyboardInterrupt):
            raise
        return None


def questions(tok, rng, cases, contents):
    size = tok.get_vocab_size()
    for case in range(cases):
        text = random_string(rng, contents)
        special = rng.random() < 0.5
        ids = library_answer(lambda: tok.encode(text, add_special_tokens=special).ids)
        yield {"text": text, "add_special": special}, None if ids is None else {"ids": ids}
        if case % 4 == 0:
            ids = [rng.randrange(size + 2) for _ in range(rng.randrange(1, 30))]
        elif case % 4 == 1 and ids:
            ids = ids[:rng.randint(1, len(ids))]
        else:
            continue
        skip = rng.random() < 0.5
        yield {"ids": ids, "skip_special": skip}, {"text": tok.decode(ids, skip_special_tokens=skip)}


def compare(cli, name, path, tok, rng, cases):
    """Failures of one tokenizer; prints the first three."""
    contents = [t.content for t in tok.get_added_tokens_decoder().values()]
    asked = list(questions(tok, rng, cases, contents))
    lines = "".join(json.dumps(q) + "\n" for q, _ in asked)
    answers = subprocess.run([cli, str(path)], input=lines.encode(), capture_output=True, check=False)
    got = [json.loads(line) for line in answers.stdout.split(b"\n") if line]
    if len(got) != len(asked):
        print(f"{name}: {len(got)} answers of {len(asked)}: {got[-1:]} {answers.stderr.decode()[-600:]}")
        return len(asked), len(asked)
    failed = [(q, want, have) for (q, want), have in zip(asked, got) if want is not None and want != have]
    for q, want, have in failed[:3]:
        print(f"{name} ({path}): {json.dumps(q)}\n  want {json.dumps(want)}\n  have {json.dumps(have)}")
    return len(asked), len(failed)


def gguf_twin(path):
    """The Hugging Face tokenizer that a GGUF file of pre-tokenizer "smollm" comes from."""
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return tok


def undecided(tok):
    """Added tokens that are the same once normalized: the library takes any, and looks for an empty one for ever."""
    if not tok.normalizer:
        return False
    forms = [tok.normalizer.normalize_str(t.content) for t in tok.get_added_tokens_decoder().values() if t.normalized]
    return "" in forms or len(set(forms)) < len(forms)


def sources(args, scratch, rng):
    files = [f for f in sorted(GOLDEN.glob("*.json")) if not f.name.endswith(".vectors.json")]
    files += [pathlib.Path(f) for f in args.text]
    for path in files:
        yield path.name, path, Tokenizer.from_file(str(path))
    if args.gguf:
        yield "gguf", args.gguf, gguf_twin(args.gguf)
    bases = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    made = 0
    while made < args.variants:
        whole = random_variant(rng, rng.choice(bases))
        tok = library_answer(lambda: Tokenizer.from_str(json.dumps(whole)))
        if not tok or undecided(tok):
            continue
        path = pathlib.Path(scratch) / f"variant{made}.json"
        path.write_text(json.dumps(whole), encoding="utf-8")
        yield f"variant {made}", path, tok
        made += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cli")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--variants", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gguf")
    parser.add_argument("--text", action="append", default=[])
    args = parser.parse_args()
    rng = random.Random(args.seed)
    asked = failed = 0
    scratch = tempfile.mkdtemp(prefix="mica-tokenizers-")
    for name, path, tok in sources(args, scratch, rng):
        tok.no_truncation()
        tok.no_padding()
        more, wrong = compare(args.cli, name, path, tok, rng, args.cases)
        asked += more
        failed += wrong
    print(f"{asked - failed} passed, {failed} failed    (seed {args.seed})")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
