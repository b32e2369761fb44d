"""Recover: what is left of a model learns from the whole of it, on the examples that chose what went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from edgellm.core.training import Training
from edgellm.distill.encoders import distill_encoder
from edgellm.distill.sequences import distill_sequences
from edgellm.errors import GateError
from edgellm.prune.setup import SEQUENCES, Setup
from edgellm.prune.write import write_beside
from edgellm.stages.examples import texts_in
from edgellm.stages.rows import read_placed
from edgellm.stages.source import read_source
from edgellm.stages.texts import is_held_back

_SOFT = 1.0
"""Weight of the source's probabilities, beside 1 for the pairs."""


def recover(setup: Setup, pruned: Path, work: Path) -> Path:
    """Distil the source into a pruned model, and return the folder of what came of it.

    A tenth of the examples choose the best step. Those that the result is measured on are not among them.

    Args:
        setup: what pruning was asked for.
        pruned: folder of the smaller model.
        work: folder to work in.

    Raises:
        InputError: the examples can't be learned from.
        GateError: what came of it is no model of the same size.

    """
    options, source = setup.options, setup.source
    out = work / "recovered"
    (_sequences if source.task == SEQUENCES else _encoder)(setup, pruned, out, options.training())
    sizes = [
        read_source(str(folder), task=source.task, tokenizer=None, pooling=None, describe=lambda name: {}).parameters
        for folder in (pruned, out)
    ]
    if sizes[0] != sizes[1]:
        raise GateError(f"The distillation was to keep {sizes[0]:,} parameters, and wrote {sizes[1]:,}.")
    write_beside(source, out)
    return out


def _encoder(setup: Setup, pruned: Path, out: Path, training: Training) -> None:
    distill_encoder(
        _whole(setup), out, student=pruned, data=_data(setup, out.parent), task=setup.source.task, training=training,
        quiet=setup.options.quiet, max_tokens=setup.max_tokens,
    )  # fmt: skip


def _sequences(setup: Setup, pruned: Path, out: Path, training: Training) -> None:
    """Train from pairs, and from what the source says in every slot."""
    rows: dict[bool, list[str]] = {False: [], True: []}
    for example in setup.chosen:
        text = " ".join(str(example.inputs[0]).split())
        for target in cast("tuple[str, ...]", example.gold):
            if text and target:
                rows[is_held_back(text)].append(f"{text}\t{target}\n")
    paths = {name: out.parent / f"recover-{name}.tsv" for name in ("train", "dev")}
    for path, lines in zip(paths.values(), rows.values(), strict=True):
        path.write_text("".join(lines), encoding="utf-8")
    distill_sequences(
        teacher=_whole(setup), student=str(pruned), data=paths["train"], dev=paths["dev"], out=out, training=training,
        soft=_SOFT, quiet=setup.options.quiet,
    )  # fmt: skip


def _whole(setup: Setup) -> Path:
    assert setup.source.folder is not None
    return Path(setup.source.folder)


def _data(setup: Setup, work: Path) -> Path:
    """Write the examples that chose what went, as rows of the file that they are from, or as lines."""
    if setup.chosen[0].gold is None:
        path = work / "recover.txt"
        path.write_text("".join(f"{text}\n" for text in texts_in(setup.chosen)), encoding="utf-8")
        return path
    assert setup.options.data is not None
    rows = [row for _, row in read_placed(Path(setup.options.data))]
    path = work / "recover.jsonl"
    path.write_text(
        "".join(f"{json.dumps(rows[place], ensure_ascii=False)}\n" for place in setup.places), encoding="utf-8"
    )
    return path
