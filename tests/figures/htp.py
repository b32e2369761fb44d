"""`python -m tests.figures.htp`: MiniLM on Qualcomm's emulation of the HTP, at 64 tokens, in both schemes.

Agreement is over the 50 varied held-out texts and the 50 English sentences, cut to 64 tokens on both sides; the compiler's
time is of this machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from edgellm.backends import qnn
from edgellm.cli.render import columns
from edgellm.core.precision import Precisions
from edgellm.runtime.engines.qnn import session
from edgellm.runtime.machine import machine
from edgellm.stages.faithful import to_tensors
from edgellm.stages.lower import encode_texts, lower
from edgellm.stages.prepare import reference
from edgellm.stages.source import read_source
from edgellm.targets import load_target
from edgellm.texts import default_texts

TOKENS = 64

SETS = {"varied": "held_out.txt", "English": "english.txt"}
"""Texts that nothing was chosen with, 50 of each."""


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    source = read_source(None, task=None, tokenizer=None, pooling=None, describe=lambda name: {})
    sets = {name: read(file) for name, file in SETS.items()}
    feeds = {name: encode_texts(source, texts, TOKENS) for name, texts in sets.items()}
    with torch.no_grad():
        expected = {
            name: torch.stack([reference(source)(**to_tensors(item)).ravel() for item in items])
            for name, items in feeds.items()
        }
    rows = []
    for scheme in ("a16w8", "int8-static"):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(source, scheme, Path(folder), feeds, expected)
    print(f"all-MiniLM-L6-v2 for snapdragon-8-gen3, {TOKENS} tokens, 50 texts of each set, emulated on {machine()}\n")
    head = ("scheme", "texts", "mean", "min", "MB", "partitions", "outside", "compile s", "run s")
    print(columns(head, rows, left=2))


def read(file: str) -> list[str]:
    """Return the texts of a set."""
    return [line for line in Path(__file__).with_name(file).read_text(encoding="utf-8").split("\n") if line.strip()]


def measure(
    source: Any, scheme: str, folder: Path, feeds: dict[str, Any], expected: dict[str, torch.Tensor]
) -> list[tuple[object, ...]]:
    """Return a row for each set of texts."""
    took = []
    compile_plain = qnn._compile

    def timed(*args: Any) -> list[str]:
        start = time.perf_counter()
        outside = compile_plain(*args)
        took.append(time.perf_counter() - start)
        return outside

    qnn._compile = timed
    lowered = lower(source, "qnn", Precisions(scheme), load_target("snapdragon-8-gen3"), (TOKENS,), folder,
                    calibration=default_texts("calibration"))  # fmt: skip
    qnn._compile = compile_plain
    npu = session(folder / lowered.file, lowered.session_options)
    assert lowered.delegation is not None
    rows = []
    for name, items in feeds.items():
        start = time.perf_counter()
        got = torch.stack(
            [torch.from_numpy(npu.run(None, qnn.cut(item, source.inputs, TOKENS))[0]).ravel() for item in items]
        )
        seconds = (time.perf_counter() - start) / len(items)
        scores = torch.cosine_similarity(expected[name], got).tolist()
        size = (folder / lowered.file).stat().st_size / 1e6
        rows.append(
            (
                scheme, name, f"{statistics.fmean(scores):.4f}", f"{min(scores):.4f}", f"{size:.1f}",
                lowered.delegation.partitions, lowered.delegation.outside, f"{took[0]:.1f}", f"{seconds:.2f}",
            )
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
