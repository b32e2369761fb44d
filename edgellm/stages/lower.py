"""Lower: a source model to one artifact file, by the backend of a format. Runs in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from edgellm.backends import Lowered, Prepared, load_backend
from edgellm.core.signature import Feeds, Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError
from edgellm.runtime.bundle import TOKENIZER
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.equalize import equalize
from edgellm.stages.faithful import ensure_faithful, to_tensors
from edgellm.stages.prepare import Rewritten, prepare
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task

_CHECKED = 8


def lower(
    source: SourceModel, fmt: str, scheme: str, target: Target, buckets: tuple[int, ...], folder: Path, *,
    calibration: Sequence[str] = (),
) -> Lowered:  # fmt: skip
    """Write the artifact of one format into `folder`, equalized if there are calibration texts."""
    rewritten = prepare(source)
    notes: tuple[str, ...] = ()
    if calibration:
        rewritten, notes = _equalized(
            source, rewritten, encode_texts(source, calibration, buckets[-1]), fmt, buckets[-1]
        )
    prepared = Prepared(rewritten.module, source.inputs, source.output, buckets, rewritten.finite_mask)
    return dataclasses.replace(load_backend(fmt).lower(prepared, scheme, target, folder), notes=notes)


def _equalized(
    source: SourceModel, plain: Rewritten, feeds: Sequence[Feeds], fmt: str, max_tokens: int
) -> tuple[Rewritten, tuple[str, ...]]:
    """Return the equalized module; or the plain one and a note, where a model does not bear it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, and so the bytes of the artifact, must not depend on free cores
    try:
        changed = equalize(plain.module, [to_tensors(item) for item in feeds])
        print(f"equalized {changed} places on {len(feeds)} calibration texts")
        again = prepare(source)
        try:
            ensure_faithful(again.module, plain.module, feeds[:_CHECKED], max_tokens)
        except (EdgellmError, RuntimeError, TypeError, AttributeError) as error:
            print(f"not equalized: {error}")
            return again, (f"The channels of {fmt} were not equalized: this model does not bear it.",)
    finally:
        torch.set_num_threads(threads)
    return plain, ()


def encode_texts(source: SourceModel, texts: Sequence[str], max_tokens: int) -> list[Feeds]:
    """Return the feeds of the first pass of each text, in the form in which the task takes texts."""
    with TemporaryDirectory() as folder:
        write_tokenizer(source, Path(folder) / TOKENIZER)
        tokenizer = Tokenizer(Path(folder) / TOKENIZER, max_tokens)
    task = load_task(source.task)
    signature = Signature(source.inputs, (source.output,))
    inputs = task.golden(texts, source.options)
    return [to_feeds(task.encode(raw, tokenizer, source.options)[0], signature) for raw in inputs]
