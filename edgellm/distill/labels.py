"""Labels: what a teacher makes of texts, an autoregressive one by beam search, kept in shards.

Sequence-level distillation (Kim and Rush 2016, https://arxiv.org/abs/1606.07947): a teacher's likeliest outputs are easier to
learn than people's, and there are as many as there are texts. A shard is written at once or not at all, and is named by what
it is of, so that several machines can make some each, a labelling that was cut off goes on, and the next training reads them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgellm.distill.pairs import Pair, read_pairs
from edgellm.distill.teachers import Teacher, digest
from edgellm.errors import UsageError

SHARD = 4096
"""Texts in a shard."""


def label(
    teacher: Teacher, texts: Sequence[str], folder: Path, *, beams: int, slots: int, part: tuple[int, int] = (1, 1),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:  # fmt: skip
    """Write the shards that miss of this part, and return the paths of all shards of it.

    Args:
        teacher: that answers.
        texts: in the same order on every machine.
        folder: of the shards.
        beams, slots: as `Teacher.answer` takes them.
        part: the third of five machines is (3, 5).
        report: told the texts that are labelled, and all of them.

    Raises:
        UsageError: there is no such part.

    """
    number, parts = part
    if not 1 <= number <= parts:
        raise UsageError(f"There is no part {number} of {parts}.", hint="--part 1/4 is the first of four.")
    shards = list(_shards(teacher, texts, folder, beams=beams, slots=slots))[number - 1 :: parts]
    total, done = sum(len(lines) for _, lines in shards), 0
    folder.mkdir(parents=True, exist_ok=True)
    for path, lines in shards:
        if not path.is_file():
            answers = teacher.answer(lines, beams=beams, slots=slots)
            said = [" ".join(answer.split()) for answer in answers]
            rows = [f"{text}\t{answer}\n" for text, answer in zip(lines, said, strict=True) if answer]
            part_file = path.with_suffix(f".{os.getpid()}.part")
            part_file.write_text("".join(rows), encoding="utf-8")
            part_file.replace(path)
        done += len(lines)
        report(done, total)
    return [path for path, _ in shards]


def read_labels(paths: Sequence[Path]) -> list[Pair]:
    """Return what shards hold; one in which the teacher was silent is empty."""
    return [pair for path in paths if path.stat().st_size for pair in read_pairs(path)]


def _shards(
    teacher: Teacher, texts: Sequence[str], folder: Path, *, beams: int, slots: int
) -> Iterator[tuple[Path, Sequence[str]]]:
    made_by = f"{digest(teacher)} {beams} {slots}"
    for start in range(0, len(texts), SHARD):
        lines = texts[start : start + SHARD]
        name = hashlib.sha256("\n".join([made_by, *lines]).encode("utf-8", "surrogatepass")).hexdigest()
        yield folder / f"{name[:24]}.tsv", lines
