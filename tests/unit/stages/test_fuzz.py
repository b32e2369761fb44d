"""The corpus: the same texts in every process, valid Unicode, and all that it promises in it."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

from edgellm.stages.fuzz import SPECIAL, fuzz_texts

CODE = """
import hashlib
from edgellm.stages.fuzz import fuzz_texts
print(hashlib.sha256("\\0".join(fuzz_texts(500, ["[NEW]"], ["piece"], seed=3)).encode()).hexdigest())
"""


def test_two_processes_make_the_same_texts() -> None:
    runs = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]


def test_another_seed_makes_others() -> None:
    one, other = (set(fuzz_texts(300, seed=seed)) for seed in (0, 1))
    assert len(one & other) < 60  # the empty one, and short ones by chance


def test_a_longer_corpus_starts_with_the_shorter() -> None:
    assert list(fuzz_texts(400))[:100] == list(fuzz_texts(100))


def test_every_text_is_valid_unicode() -> None:
    for text in fuzz_texts(5000, seed=9):
        text.encode("utf-8")


def test_it_holds_what_it_is_for() -> None:
    texts = list(fuzz_texts(3000, ["[OWN]"], ["##vocabulary"]))
    whole = "\n".join(texts)
    assert texts[0] == ""
    assert all(token in whole for token in (*SPECIAL, "[OWN]", "[own]", "##vocabulary"))
    assert all(c in whole for c in "\0\u200d\u200f\u202e\ufeff\u0301\x85\u3000\t")
    assert max(len(word) for text in texts for word in text.split()) > 1000
    categories = {unicodedata.category(c) for c in whole}
    assert categories >= {
        "Lu",
        "Ll",
        "Lt",
        "Lo",
        "Mn",
        "Nd",
        "Nl",
        "No",
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Zs",
        "Zl",
        "Zp",
        "Sk",
    }
    names = {unicodedata.name(c, "").split(" ")[0] for c in whole}
    assert names >= {
        "LATIN",
        "GREEK",
        "CYRILLIC",
        "HEBREW",
        "ARABIC",
        "DEVANAGARI",
        "THAI",
        "HANGUL",
        "CJK",
        "HIRAGANA",
    }
