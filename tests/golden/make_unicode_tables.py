#!/usr/bin/env python3
"""Writes runtime/tokenizer/unicode_tables.c: what the `tokenizers` library takes for a number, a word character,
punctuation and a combining mark, and what its regexes know beyond Unicode 14.

The library is asked about every code point, so that the tables hold its answers and not those of one Unicode
version (its crates carry several).

usage: make_unicode_tables.py [OUTPUT]       needs Python's unicodedata 14.0 (3.11) and tokenizers 0.23
"""
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
NAMES = "L Lu Ll Lm Lo M Mn Mc N Nd No P Pd Po S Sm So Cf".split()


def isolated(pre):
    """Code points that `pre` cuts out of the middle of a run of letters."""
    text = "".join("a" + chr(c) + "a" for c in POINTS)
    return {ord(s) for s, (a, b) in pre.pre_tokenize_str(text) if b - a == 1 and a % 3 == 1}


def word_characters():
    text = "".join("a" + chr(c) + "a " for c in POINTS)
    return {ord(s[1]) for s, (a, b) in pre_tokenizers.Whitespace().pre_tokenize_str(text) if b - a == 3}


def matched(pattern):
    pre = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return {ord(c) for s, _ in pre.pre_tokenize_str("".join(map(chr, POINTS))) for c in s}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, points):
    cells = ["{0x%x, 0x%x}," % (a, b) for a, b in ranges(points)]
    lines, line = [], "   "
    for cell in cells:
        if len(line) + len(cell) + 1 > 108:
            lines.append(line)
            line = "   "
        line += " " + cell
    lines.append(line)
    return "const rt__tok_range rt__tok_%s[] = {\n%s\n};\nconst size_t rt__tok_%s_count = %d;\n" % (
        name, "\n".join(lines), name, len(cells))


def newer(name):
    base = {c for c in POINTS if unicodedata.category(chr(c)).startswith(name)}
    parts = ["\\\\x{%x}" % a if a == b else "\\\\x{%x}-\\\\x{%x}" % (a, b)
             for a, b in ranges(matched(r"\p{%s}" % name) - base)]
    lines, line = [], ""
    for part in parts:
        if len(line) + len(part) > 96:
            lines.append(line)
            line = ""
        line += part
    lines.append(line)
    return '    {"%s",\n%s},\n' % (name, "\n".join('     "%s"' % text for text in lines))


def main():
    assert unicodedata.unidata_version == "14.0.0", "Python's Unicode must be 14, the oldest of PCRE2's that is used"
    strip = normalizers.StripAccents()
    out = ["/* Written by tests/golden/make_unicode_tables.py from tokenizers %s. */\n" % tokenizers.__version__,
           '#include "runtime/tokenizer/unicode.h"\n\n',
           table("numeric", isolated(pre_tokenizers.Digits(True))), "\n",
           table("punctuation", isolated(pre_tokenizers.Punctuation())), "\n",
           table("word", word_characters()), "\n",
           table("mark", {c for c in POINTS if strip.normalize_str(chr(c)) == ""}), "\n",
           "const rt__tok_newer rt__tok_newer_than_14[] = {\n"]
    out += [newer(name) for name in NAMES]
    out.append("};\nconst size_t rt__tok_newer_count = %d;\n" % len(NAMES))
    with open(sys.argv[1] if len(sys.argv) > 1 else "runtime/tokenizer/unicode_tables.c", "w") as f:
        f.write("".join(out))


main()
