"""Scores a bundle on the test texts: marks and capital letters word by word, and the words that one pass got wrong.

Nothing makes a model that writes all words at once keep those that it was given: texts whose words changed are counted,
and what stands at a changed, lost or added word counts like any other.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
from spoken import MARKS, spoken_word

from edgellm.distill.pairs import Pair, read_pairs
from edgellm.errors import EdgellmError
from edgellm.runtime import Bundle, Session
from edgellm.runtime.engines import can_run
from edgellm.runtime.machine import machine

CAPITAL = "capital"
"""What a word has besides marks: its first letter is a capital."""

MEASURED = (*MARKS, CAPITAL)

Placed = tuple[str, str]
"""A word as it should be, and as it was written; one of them is empty where a word was added or lost."""


@dataclass(frozen=True)
class Scores:
    """How texts were written.

    Attributes:
        f1: of each of MEASURED, 0 to 1; nan where there is none, neither right nor written.
        counts: of each of MEASURED in the targets.
        exact: share of texts that are right to the letter.
        changed_texts: share of texts whose words are not those of the input.
        changed_words: edits of words, by how many there are.
        chrf: by sacrebleu, 0 to 100.

    """

    f1: dict[str, float]
    counts: dict[str, int]
    exact: float
    changed_texts: float
    changed_words: float
    chrf: float


def baseline(text: str) -> str:
    """Return a text with a capital where it begins and a full stop where it ends."""
    return f"{text[:1].upper()}{text[1:]}."


def place(target: str, said: str) -> list[Placed]:
    """Return the words of a target, each with the one that was written for it, by the fewest edits of spoken words."""
    from rapidfuzz.distance import Levenshtein

    right, written = target.split(), _words(said)
    placed: list[Placed] = []
    asked, got = [spoken_word(word) for word in right], [spoken_word(word) for word in written]
    for step in Levenshtein.opcodes(asked, got):
        rows, columns = right[step.src_start : step.src_end], written[step.dest_start : step.dest_end]
        if step.tag in ("equal", "replace"):
            placed += zip(rows, columns, strict=True)
        else:
            placed += [(word, "") for word in rows] + [("", word) for word in columns]
    return placed


def score(pairs: Sequence[Pair], said: Sequence[str]) -> Scores:
    """Return how the texts that were written for pairs do."""
    import sacrebleu
    from sklearn.metrics import precision_recall_fscore_support

    placed = [place(pair.target, text) for pair, text in zip(pairs, said, strict=True)]
    words = [word for text in placed for word in text]
    truth, written = ([_has(word[side]) for word in words] for side in (0, 1))
    _, _, f1, counts = precision_recall_fscore_support(truth, written, average=None, zero_division=math.nan)
    edited = [sum(spoken_word(right) != spoken_word(got) for right, got in text) for text in placed]
    return Scores(
        dict(zip(MEASURED, map(float, f1), strict=True)),
        dict(zip(MEASURED, map(int, counts), strict=True)),
        sum(text == pair.target for pair, text in zip(pairs, said, strict=True)) / len(pairs),
        sum(map(bool, edited)) / len(pairs),
        sum(edited) / sum(len(pair.target.split()) for pair in pairs),
        float(sacrebleu.corpus_chrf(list(said), [[pair.target for pair in pairs]]).score),
    )


def table(found: dict[str, Scores]) -> str:
    """Return a Markdown table: F1 of marks and capitals, then shares of texts and words, in percent; then chrF."""
    names = [CAPITAL if kind == CAPITAL else f"`{kind}`" for kind in MEASURED]
    rows = [["", *names, "exact texts", "texts with changed words", "changed words", "chrF"]]
    rows.append(["---"] * len(rows[0]))
    for name, one in found.items():
        shares = (*one.f1.values(), one.exact, one.changed_texts, one.changed_words)
        rows.append(
            [name, *("n/a" if math.isnan(share) else f"{100 * share:.1f}" for share in shares), f"{one.chrf:.1f}"]
        )
    rows.append(["how many there are", *map(str, next(iter(found.values())).counts.values()), "", "", "", ""])
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)


def _words(text: str) -> list[str]:
    """Return the words of what a model wrote; a mark that stands alone belongs to the word before."""
    return [word for word in re.sub(rf"\s+([{MARKS}])", r"\1", text).split() if spoken_word(word)]


def _has(word: str) -> list[int]:
    """Return 1 or 0 for each of MEASURED; the marks of a word are those behind it, not those within."""
    marks = word[len(word.rstrip(MARKS)) :]
    return [*(int(mark in marks) for mark in MARKS), int(word.lstrip("'$")[:1].isupper())]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/punctuation/test.tsv"), show_default=True)
@click.option("--format", "only", help="One format of the bundle; all that run here if left out.")
@click.option("--limit", type=click.IntRange(min=1), help="Texts to score; all if left out.")
def report(bundle: Path, data: Path, only: str | None, limit: int | None) -> None:
    """Score the artifacts of BUNDLE."""
    pairs, opened = read_pairs(data)[:limit], Bundle.open(bundle)
    found, cut = {"capital and full stop": score(pairs, [baseline(pair.text) for pair in pairs])}, 0
    for artifact in [opened.artifact(only)] if only else filter(can_run, opened.manifest.artifacts):
        session = Session.open(opened, format=artifact.id)
        results = [session(pair.text) for pair in pairs]
        said = [cast("dict[str, str]", result.value)["text"] for result in results]
        found[f"{artifact.format}, {artifact.scheme}"] = score(pairs, said)
        cut = sum(result.truncated for result in results)
        click.echo(f"ran {artifact.id}", err=True)
    click.echo(table(found))
    click.echo(
        f"\nF1 by words, and shares, in percent. {len(pairs)} texts of {data.name}, "
        f"{sum(len(pair.text.split()) for pair in pairs)} words; {cut} texts cut at {opened.manifest.max_tokens} tokens; "
        f"target {opened.manifest.target}, run from raw text on {machine()}."
    )


if __name__ == "__main__":
    try:
        report()
    except EdgellmError as error:
        click.echo(f"report: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
