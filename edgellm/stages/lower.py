"""Lower: a source model to one artifact file, by the backend of a format. Runs in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgellm.backends import Lowered, Prepared, load_backend
from edgellm.backends.calibrate import beyond
from edgellm.backends.observe import one_thread
from edgellm.backends.rounding import layers_of
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Tuning
from edgellm.core.signature import Feeds, Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError
from edgellm.runtime.bundle import TOKENIZER
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.equalize import STATIC_WORTH, WORTH, equalize
from edgellm.stages.faithful import ensure_faithful, to_tensors
from edgellm.stages.prepare import Rewritten, prepare
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task

_BEYOND = 0.1
"""Share of rows out of range that calls for a note. Texts of one domain stay below it; mails stand out beside edgellm's own."""

_CHECKED = 8
"""Texts that the equalized module is compared with the plain one on."""


def lower(
    source: SourceModel, fmt: str, precisions: Precisions, target: Target, buckets: tuple[int, ...], folder: Path, *,
    calibration: Sequence[str] = (), ranges: str = "mse", golden: Sequence[object] = (),
    tuning: Tuning | None = None,
) -> Lowered:  # fmt: skip
    """Write the artifact of one format into `folder`, tuned on calibration texts where the scheme has a use for them.

    Golden inputs choose nothing: where they are given, a note says if ranges of the calibration texts don't hold them.
    """
    tuning = tuning or Tuning()
    rewritten = prepare(source)
    precisions.ensure_named(name for name, _ in layers_of(rewritten.module))
    notes: tuple[str, ...] = ()
    feeds = encode_texts(source, calibration, buckets[-1]) if calibration else []
    if feeds and tuning.equalize:
        rewritten, notes = equalized(source, rewritten, feeds, fmt, buckets[-1], precisions, target.backend(fmt))
    samples = [to_tensors(item) for item in feeds]
    if samples and golden:
        others = [to_tensors(item) for item in _encode(source, golden, buckets[-1])]
        notes = (*notes, *_unlike(beyond(rewritten.module, samples, others)))
    prepared = Prepared(
        rewritten.module, source.inputs, source.output, buckets, rewritten.finite_mask, samples, ranges, tuning
    )
    lowered = load_backend(target.backend(fmt)).lower(prepared, precisions, target, folder)
    return dataclasses.replace(lowered, notes=(*notes, *lowered.notes))


def equalized(
    source: SourceModel,
    plain: Rewritten,
    feeds: Sequence[Feeds],
    fmt: str,
    max_tokens: int,
    precisions: Precisions,
    backend: str,
) -> tuple[Rewritten, tuple[str, ...]]:
    """Return the equalized module; or the plain one and a note, where a model does not bear it.

    Layers whose scheme in this format does not call for it stay as they are.
    """
    if not any(backend in scheme.equalized for scheme in precisions.schemes):
        return plain, ()
    worth = STATIC_WORTH if any(scheme.static for scheme in precisions.schemes) else WORTH
    with one_thread():
        gain = equalize(
            plain.module, [to_tensors(item) for item in feeds], lambda name: backend in precisions.of(name).equalized,
            worth=worth,
        )  # fmt: skip
        print(f"equalized {gain.places} places on {len(feeds)} calibration texts, error {gain.error:.3f}")
        again = prepare(source)
        try:
            ensure_faithful(again.module, plain.module, feeds[:_CHECKED], max_tokens)
        except (EdgellmError, RuntimeError, TypeError, AttributeError) as error:
            print(f"not equalized: {error}")
            return again, (f"The channels of {fmt} were not equalized: this model does not bear it.",)
    if not gain.places:
        return plain, ()
    return plain, (
        f"Channels of {fmt} were equalized at {gain.places} places, where rounding now costs {gain.error:.0%} of the squared "
        "error that it did (--no-equalize leaves it out).",
    )


def encode_texts(source: SourceModel, texts: Sequence[str], max_tokens: int) -> list[Feeds]:
    """Return the feeds of the first pass of each text, in the form in which the task takes texts."""
    return _encode(source, load_task(source.task).golden(texts, source.options), max_tokens)


def _unlike(found: tuple[str, float]) -> tuple[str, ...]:
    """Return a note where other texts leave the ranges of the calibration texts."""
    name, share = found
    if share <= _BEYOND:
        return ()
    return (
        f"The calibration texts are unlike the golden texts: {share:.0%} of what {name} reads there goes beyond what it read on "
        "them. --calibration takes texts of the product's domain, and --golden others of it.",
    )


def _encode(source: SourceModel, inputs: Sequence[object], max_tokens: int) -> list[Feeds]:
    with TemporaryDirectory() as folder:
        write_tokenizer(source, Path(folder) / TOKENIZER)
        tokenizer = Tokenizer(Path(folder) / TOKENIZER, max_tokens)
    task = load_task(source.task)
    signature = Signature(source.inputs, (source.output,))
    return [to_feeds(task.encode(raw, tokenizer, source.options)[0], signature) for raw in inputs]
