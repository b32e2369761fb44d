"""Texts that tokenizers stumble over, made from a seed: the same ones on every machine and in every run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from edgellm.texts import default_texts

Make = Callable[[random.Random], str]

_PARTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 6, 15)

SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>")
"""Special tokens of the common families, which texts hold whether or not the tokenizer knows them."""

_SCRIPTS = tuple(
    range(first, last)
    for first, last in (
        (0x21, 0x7F), (0xA1, 0x180), (0x180, 0x250), (0x1E00, 0x2000), (0x370, 0x400), (0x400, 0x530), (0x531, 0x587),
        (0x5D0, 0x5EB), (0x620, 0x6D4), (0x904, 0x940), (0x985, 0x9CF), (0xB85, 0xBC3), (0xE01, 0xE3B), (0x10D0, 0x10FB),
        (0x1200, 0x1249), (0x1780, 0x17B4), (0x3041, 0x3097), (0x30A1, 0x30FB), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4),
        (0x1100, 0x1200), (0x20000, 0x20100), (0xFF01, 0xFF5F), (0x1D400, 0x1D500), (0x10400, 0x10450), (0x2190, 0x2400),
        (0xFB00, 0xFB07), (0xF900, 0xFA6E), (0x13A0, 0x13F6),
    )
)  # fmt: skip
_EMOJI = (
    "🐟", "👍🏽", "👩\u200d🔬", "👨\u200d👩\u200d👧\u200d👦", "❤\ufe0f", "🏳\ufe0f\u200d🌈", "🇫🇮", "1\ufe0f\u20e3", "😀",
    "☕", "\u200d🔥", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
)  # fmt: skip
_SPACES = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u2581"
_INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2069\ufeff\xad\ufffd\ufffc"
)
_MARKS = "".join(map(chr, (*range(0x300, 0x315), 0x345, 0x591, 0x64B, 0x93C, 0x3099, 0x20DD, 0x1AB0, 0xFE0F)))
_TRAPS = (
    "ΟΔΟΣ ΣΑΣ Α.Σ.", "İstanbul ISIĞI", "straße STRASSE ẞ", "ﬁﬂ ﬃ", "\u212b \xc5 A\u030a", "e\u0301 \xe9",
    "\uac00 \u1100\u1161", "don't can't we'll I'M", "``quoted'' “so” ‘so’", "a--b…c––d", "###", "##ing ##", "▁▁ ▁the",
    "Ġthe Ċ", "<0x0A>", "&amp;&#10;", "%20%0A", "\\n\\u0041", "\u01c5 \u01c4 \u01c6", "\u0390 \u03b0",
    "\u017f \u212a \u2126", "½ ² ₂ ⑤ Ⅳ", "،؛؟", "。、「」", "º ª", "\u0e33 \u0e4d\u0e32", "\ue000\uf8ff", "\U000e0001",
    "\U0010ffff",
)  # fmt: skip
_CODE = (
    "https://example.com/a?b=c&d=%20#e", "me@example.org", "def f(x: int) -> str:\n\treturn f'{x!r:>4}'", "<b>&nbsp;</b>",
    "SELECT * FROM t WHERE a >= 3.5e-7;", "C:\\Temp\\new.txt", "/usr/lib/x86_64-linux-gnu", '{"a": [1, null, "\\u00e9"]}',
    "v1.2.3-rc.4+build", "0x7fff_ffff", "$x = @{ $y->[0] };", "a_b__c", "2026-11-05T09:30:00Z", "+358 40 123 4567",
)  # fmt: skip


def fuzz_texts(
    count: int, added: Sequence[str] = (), vocabulary: Sequence[str] = (), *, seed: int = 0
) -> Iterator[str]:
    """Yield `count` texts of valid Unicode; the first is empty.

    Args:
        count: how many.
        added: tokens that a tokenizer finds in raw text, its special ones among them.
        vocabulary: other pieces of its vocabulary.
        seed: another one gives other texts.

    """
    # random.Random's sequences for a seed are promised to stay as they are; those of a str need no hash seed.
    rng = random.Random(f"edgellm {seed}")  # noqa: S311  a test corpus, no secret
    own = [*default_texts("golden"), *default_texts("calibration")]
    tokens = [*dict.fromkeys([*added, *SPECIAL])]
    kinds: list[Make] = [
        _word, _word, _mixed, _number, _long_word, _code, _controls, _any,
        lambda rng: _special(rng, tokens),
        lambda rng: _special(rng, tokens),
        lambda rng: _mutated(rng, own),
        lambda rng: _mutated(rng, own),
        lambda rng: "".join(rng.choices(_EMOJI, k=rng.randint(1, 4))),
        lambda rng: rng.choice(_TRAPS),
        *([lambda rng: rng.choice(vocabulary)] * 2 if vocabulary else []),
    ]  # fmt: skip
    for i in range(count):
        if i == 0:
            yield ""
        elif i % 4 == 0:
            yield _mutated(rng, own)
        else:
            yield "".join(rng.choice(kinds)(rng) + _gap(rng) for _ in range(rng.choice(_PARTS)))


def _gap(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return " "
    return "" if rng.random() < 0.4 else "".join(rng.choices(_SPACES, k=rng.randint(1, 3)))


def _letters(rng: random.Random, script: range, count: int) -> str:
    return "".join(chr(script[rng.randrange(len(script))]) for _ in range(count))


def _word(rng: random.Random) -> str:
    return _letters(rng, rng.choice(_SCRIPTS), rng.randint(1, 9))


def _mixed(rng: random.Random) -> str:
    """Return letters of several scripts with marks and invisible characters between them."""
    parts = [_letters(rng, rng.choice(_SCRIPTS), rng.randint(1, 3)) for _ in range(rng.randint(1, 5))]
    return "".join(part + rng.choice(rng.choice((_MARKS, _INVISIBLE, "-'.,"))) for part in parts)


def _number(rng: random.Random) -> str:
    value = rng.choice((rng.randrange(10), rng.randrange(10**4), rng.randrange(10**18), rng.uniform(-1e6, 1e6)))
    digits = f"{value:{rng.choice(('', ',', '_'))}}"
    zero = rng.choice((0x30, 0x30, 0x30, 0x660, 0x966, 0xFF10))
    return "".join(chr(zero + int(c)) if c in "0123456789" else c for c in digits)


def _long_word(rng: random.Random) -> str:
    """Return a word about as long as WordPiece gives up at (100 characters), or far longer."""
    length = rng.choice((40, 99, 100, 101, 101, rng.randint(20, 300) if rng.random() < 0.8 else rng.randint(300, 3000)))
    piece = rng.choice((_word(rng), "a", "ab", "日", "é", "e\u0301", "9", "-"))
    return (piece * length)[:length]


def _code(rng: random.Random) -> str:
    return rng.choice(_CODE)


def _controls(rng: random.Random) -> str:
    """Return C0 and C1 controls, NUL among them, and marks of direction, loose or inside a word."""
    found = "".join(
        chr(rng.choice((0, rng.randrange(0x20), rng.randrange(0x7F, 0xA0))))
        if rng.random() < 0.6
        else rng.choice(_INVISIBLE)
        for _ in range(rng.randint(1, 4))
    )
    return found if rng.random() < 0.5 else f"in{found}side"


def _any(rng: random.Random) -> str:
    """Return code points of all planes, assigned or not, but no half of a surrogate pair."""
    codes = (rng.choice((rng.randrange(0x3000), rng.randrange(0x20000), rng.randrange(0x110000))) for _ in range(8))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)[: rng.randint(1, 8)]


def _special(rng: random.Random, tokens: Sequence[str]) -> str:
    """Return a special token as text: alone, with neighbours, in another case, repeated, with a space or a part inside."""
    token = rng.choice(tokens)
    middle = len(token) // 2
    return rng.choice(
        (
            token, f"x{token}y", f" {token} ", f"\t{token}\n", token.lower(), token.upper(), token.title(), token * 3,
            f"{token[:middle]} {token[middle:]}", token[1:], token[:-1], f"{token}.", f"{token[:middle]}\u200b{token[middle:]}",
        )
    )  # fmt: skip


def _mutated(rng: random.Random, own: Sequence[str]) -> str:
    """Return one of the project's own texts, as it is or with a few edits."""
    text = rng.choice(own)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        edit = rng.randrange(7)
        if edit == 0:
            text = text[:at] + rng.choice(rng.choice((_MARKS, _INVISIBLE, _SPACES, "\0\x01"))) + text[at:]
        elif edit == 1:
            text = text[:at] + text[at + rng.randint(1, 5) :]
        elif edit == 2:
            text = rng.choice((text.upper(), text.title(), text.swapcase()))
        elif edit == 3:
            text = text[:at] + rng.choice(SPECIAL) + text[at:]
        elif edit == 4:
            text = text.replace(" ", rng.choice(("", "  ", "\t", "\xa0", "\u200b")))
        elif edit == 5:
            text = text[:at] + rng.choice(_EMOJI) + text[at:]
        else:
            text = text[at:] + text[:at]
    return text
