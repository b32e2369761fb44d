"""Lower: a source model to one artifact file, by the backend of a format. Runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgellm.backends import Lowered, Prepared, load_backend
from edgellm.core.signature import Feeds, Signature
from edgellm.core.target import Target
from edgellm.runtime.bundle import TOKENIZER
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.equalize import equalize
from edgellm.stages.prepare import ensure_faithful, prepare, to_tensors
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel
from edgellm.tasks import Encoding, load_task

_CHECKED = 8


def lower(
    source: SourceModel, fmt: str, scheme: str, target: Target, buckets: tuple[int, ...], folder: Path, *,
    calibration: Sequence[str] = (),
) -> Lowered:  # fmt: skip
    """Write the artifact of one format into `folder`, equalized if there are calibration texts."""
    rewritten = prepare(source)
    if calibration:
        feeds = encode_texts(source, calibration, buckets[-1])
        changed = equalize(rewritten.module, [to_tensors(item) for item in feeds])
        print(f"equalized {changed} places on {len(feeds)} calibration texts")
        ensure_faithful(prepare(source).module, rewritten.module, feeds[:_CHECKED], buckets[-1])
    prepared = Prepared(rewritten.module, source.inputs, source.output, buckets, rewritten.finite_mask)
    return load_backend(fmt).lower(prepared, scheme, target, folder)


def encode_texts(source: SourceModel, texts: Sequence[str], max_tokens: int) -> list[Feeds]:
    """Return the feeds of the first pass of each text."""
    with TemporaryDirectory() as folder:
        write_tokenizer(source, Path(folder) / TOKENIZER)
        tokenizer = Tokenizer(Path(folder) / TOKENIZER, max_tokens)
    task = load_task(source.task)
    signature = Signature(source.inputs, (source.output,))

    def encode(first: str, second: str | None) -> Encoding:
        return tokenizer.encode(first, second)

    return [to_feeds(task.encode(text, encode)[0], signature) for text in texts]
