"""Lower: a source model to one artifact file, by the backend of a format. Runs in a process of its own."""

from __future__ import annotations

from pathlib import Path

from edgellm.backends import Lowered, Prepared, load_backend
from edgellm.core.target import Target
from edgellm.stages.prepare import prepare
from edgellm.stages.source import SourceModel


def lower(
    source: SourceModel, fmt: str, scheme: str, target: Target, buckets: tuple[int, ...], folder: Path
) -> Lowered:
    """Write the artifact of one format into `folder`."""
    rewritten = prepare(source)
    prepared = Prepared(rewritten.module, source.inputs, source.output, buckets, rewritten.finite_mask)
    return load_backend(fmt).lower(prepared, scheme, target, folder)
