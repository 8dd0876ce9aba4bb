#!/usr/bin/env python3
"""Trains small tokenizers of every shape that Mica reads and records what the `tokenizers` library makes of some
texts with them: tests/golden/tokenizers/NAME.json and NAME.vectors.json. Needs tokenizers 0.23.

The vectors are {"encode": [{"text", "special", "ids"}], "decode": [{"ids", "skip", "text"}]}.
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent / "tokenizers"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
POSSESSIVE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
              r"|\s*[\r\n]|\s+(?!\S)|\s")

TEXT = """
The quick brown fox jumps over the lazy dog. It's what we've said; they'll agree, won't they? I'm sure he'd say so.
In 2024, about 1,234,567 people used 3.14159 or 2.71828; on 31/12/1999 nobody did. Call +44 20 7946 0958 at 09:30.
def attention(q, k, v):\n    scores = q @ k.T / sqrt(d)\n    return softmax(scores) @ v\n
int main(void) { for (int i = 0; i < 10; i++) printf("%d\\n", i); return 0; }
{"name": "mica", "values": [1, 2, 3], "nested": {"null": null, "true": true}}
Der Fluß fließt über die Straße; naïve café, façade, Ångström, Žižek, Łódź, Ísland, Ñandú.
Привет, мир! Это проверка токенизатора. Ελληνικά: Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया।
今日は世界。これはテストです。你好，世界！这是一个测试。안녕하세요 세계. ภาษาไทยไม่มีช่องว่าง
Emoji: \U0001F600 \U0001F469\u200D\U0001F469\u200D\U0001F467 \U0001F1E9\U0001F1EA \u2764\uFE0F x\u0301\u0327 end.
<html><body class="a">&amp; text</body></html> https://example.org/path?q=1#frag a_b_c CamelCase snake_case
\tTabs\tand   spaces    of  all\u00A0kinds\u2003here\r\nand lines\n\n\nmore
"""

SAMPLES = [
    "", " ", "Hello world", "  leading and trailing  ", "it's IT'S it\u017f 'S 'LL we'Ve", "1234567 12 3 ٣٤٥ ½ Ⅷ ²",
    "a\r\nb\n\n c \n", "\t\tx\u00a0y\u2003z\u3000\u180e\u200b", "Ångström A\u030angstro\u0308m \u1e9b\u0323",
    "한국어 \u1112\u1161\u11ab", "日本語テスト。", "\U0001F469\u200d\U0001F469\u200d\U0001F467\U0001F3FD", "x" * 70,
    "ab" * 60 + " " * 50, "<|endoftext|>a<|endoftext|>", "one <tool> two<tool>three  <tool>  four", "a word Word WORD",
    "ＦＵＬＬ ﬁ ﬂ ㎏ №", "\x00\x01\x7f\x85\ufeff", "$12.50 + €3 <= £4^2 | ~x", "नमस्ते दुनिया", "é\u0301\u0327\u0323\u0301",
    "don't.Stop\n\n  now?!", "\U00010d40\U00011f04\U0002ebf0\ua7cb", "\u0130stanbul \u1e9e \u03a3\u03a3",
]


def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def train(pre, normalizer=None, specials=("<|endoftext|>",), size=620, alphabet=True, unk=None):
    tok = Tokenizer(models.BPE(unk_token=unk))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    first = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tok.train_from_iterator(TEXT.split("\n") * 2, trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=first, show_progress=False))
    if alphabet:
        tok.decoder = decoders.ByteLevel()
    return tok


def with_flags(tok):
    tok.add_tokens([
        AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("Caf\u00c9", normalized=True),
        AddedToken("<left>", lstrip=True, normalized=True),
        AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<left><right>", normalized=False),
        AddedToken("\n\n", normalized=False),
        AddedToken("two words", normalized=True, special=True),
        AddedToken("日本", single_word=True, normalized=True),
        AddedToken("<both>", single_word=True, lstrip=True, rstrip=True, normalized=False, special=True),
    ])
    return tok


def template(tok, name, single):
    tok.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(name, tok.token_to_id(name))])
    return tok


def edited(tok, **model):
    whole = json.loads(tok.to_str())
    whole["model"].update(model)
    return Tokenizer.from_str(json.dumps(whole))


def tokenizers():
    seq = pre_tokenizers.Sequence
    yield "gpt2", train(byte_level())
    yield "llama3", template(edited(train(seq([split(LLAMA3), byte_level(regex=False)])), ignore_merges=True),
                             "<|endoftext|>", "<|endoftext|> $A")
    yield "starcoder", train(seq([pre_tokenizers.Digits(individual_digits=True), byte_level()]))
    yield "qwen2", train(seq([split(QWEN2), byte_level(regex=False)]), normalizers.NFC())
    yield "o200k", train(seq([split(O200K, "removed", invert=True), byte_level(regex=False)]))
    yield "possessive", train(seq([split(POSSESSIVE), byte_level(regex=False)]))
    tok = with_flags(train(byte_level(prefix=True), normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
                           specials=("<s>", "</s>")))
    tok.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), True, True)
    yield "flags", tok
    yield "plain_flags", with_flags(train(byte_level()))
    norm = normalizers.Sequence([
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Strip(), normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("--", "\u2014"), normalizers.Prepend("_ ")])
    yield "characters", train(seq([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]), norm,
                              specials=("<unk>",), size=420, alphabet=False, unk="<unk>")
    tok = train(seq([split(r"[\r\n]"), split(r"\s?\p{L}+", "merged_with_previous"),
                     split(r"\s?\p{P}+", "merged_with_next"), split(r"[一-龥ࠀ-一가-퟿]+", "contiguous"),
                     split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"), pre_tokenizers.Split("ab", "merged_with_next"),
                     byte_level(regex=False)]))
    tok.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    yield "chain", template(tok, "<|endoftext|>", "$A <|endoftext|>")


def shrink(text):
    """As few bytes as JSON can be; merges as pairs stay pairs."""
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def vectors(tok, rng):
    encode, decode = [], []
    for text in SAMPLES:
        for special in (True, False):
            ids = tok.encode(text, add_special_tokens=special).ids
            encode.append({"text": text, "special": special, "ids": ids})
        decode.append({"ids": ids, "skip": False, "text": tok.decode(ids, skip_special_tokens=False)})
    size = tok.get_vocab_size()
    for _ in range(20):
        ids = [rng.randrange(size + 3) for _ in range(rng.randrange(12))]
        for skip in (True, False):
            decode.append({"ids": ids, "skip": skip, "text": tok.decode(ids, skip_special_tokens=skip)})
    return {"encode": encode, "decode": decode}


def main():
    rng = random.Random(7)
    HERE.mkdir(exist_ok=True)
    for name, tok in tokenizers():
        (HERE / (name + ".json")).write_text(shrink(tok.to_str()) + "\n", encoding="utf-8")
        (HERE / (name + ".vectors.json")).write_text(
            json.dumps(vectors(tok, rng), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
