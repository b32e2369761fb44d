"""Recover: what is left of a model learns from the whole of it, on the examples that chose what went."""

from __future__ import annotations

import json
from pathlib import Path

from edgellm.core.training import Training
from edgellm.distill.encoders import distill_encoder
from edgellm.errors import GateError
from edgellm.prune.setup import Setup
from edgellm.prune.write import write_beside
from edgellm.stages.examples import texts_in
from edgellm.stages.rows import read_placed
from edgellm.stages.source import read_source

_BATCH = 32


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
    assert source.folder is not None
    out = work / "recovered"
    training = Training(epochs=options.recover, batch=_BATCH, rate=options.rate, seed=options.seed)
    distill_encoder(
        Path(source.folder), out, student=pruned, data=_data(setup, work), task=source.task, training=training,
        quiet=options.quiet, max_tokens=setup.max_tokens,
    )  # fmt: skip
    sizes = [
        read_source(str(folder), task=source.task, tokenizer=None, pooling=None, describe=lambda name: {}).parameters
        for folder in (pruned, out)
    ]
    if sizes[0] != sizes[1]:
        raise GateError(f"The distillation was to keep {sizes[0]:,} parameters, and wrote {sizes[1]:,}.")
    write_beside(source, out)
    return out


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
