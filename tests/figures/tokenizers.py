"""`python -m tests.figures.tokenizers [--texts 100000]`: bundle tokenizers against transformers' on generated texts.

For all-MiniLM-L6-v2 and a small tokenizer of each kind (see tests/tokenizers.py): how many texts were encoded, alone, in
pairs, cut and padded, and how many encodings differ. Each kind has texts of a seed of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgellm.cli.render import columns
from edgellm.stages.parity import Parity, compare, corpus
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel, default_model
from tests.tokenizers import KINDS, source_of, write_source

MAX_TOKENS = 128


def main() -> None:
    """Print one row per tokenizer and implementation, as they come on standard error too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--only", default=",".join(("all-MiniLM-L6-v2", *KINDS)))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, source) in enumerate(sources(Path(folder))):
            if name not in options.only.split(","):
                continue
            start = time.monotonic()
            found = compare_written(source, options.texts, Path(folder), seed=seed)
            for mismatch in found.mismatches[:5]:
                print(f"{name}: {mismatch}")
            counts: dict[str, int] = {}
            for mismatch in found.mismatches:
                counts[mismatch.reference] = counts.get(mismatch.reference, 0) + 1
            seconds = f"{time.monotonic() - start:.0f}"
            for reference, texts in found.compared.items():
                rows.append((name, reference, f"{texts:,}", counts.get(reference, 0), seconds))
                print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    print(columns(("tokenizer", "in transformers", "texts", "mismatches", "seconds"), rows, left=2))


def sources(folder: Path) -> Iterator[tuple[str, SourceModel]]:
    """Yield the real model, and the small ones, their padding and truncation baked into tokenizer.json."""
    yield "all-MiniLM-L6-v2", source_of(default_model())
    for kind in KINDS:
        yield kind, source_of(write_source(kind, folder / kind))


def compare_written(source: SourceModel, texts: int, folder: Path, *, seed: int) -> Parity:
    """Write the bundle's tokenizer and compare it."""
    path = folder / "tokenizer.json"
    write_tokenizer(source, path)
    return compare(source, path, MAX_TOKENS, corpus(source, texts, seed=seed))


if __name__ == "__main__":
    main()
