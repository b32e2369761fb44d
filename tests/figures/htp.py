"""`python -m tests.figures.htp`: MiniLM on Qualcomm's emulation of the HTP, at 64 tokens, in both schemes.

Agreement is over the 50 held-out texts, cut to 64 tokens on both sides; the compiler's time is of this machine.
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

HELD_OUT = Path(__file__).with_name("held_out.txt")
TOKENS = 64


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    source = read_source(None, task=None, tokenizer=None, pooling=None, describe=lambda name: {})
    texts = [line for line in HELD_OUT.read_text(encoding="utf-8").split("\n") if line.strip()]
    feeds = encode_texts(source, texts, TOKENS)
    with torch.no_grad():
        expected = torch.stack([reference(source)(**to_tensors(item)).ravel() for item in feeds])
    rows = []
    for scheme in ("a16w8", "int8-static"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(source, scheme, Path(folder), feeds, expected))
    print(
        f"all-MiniLM-L6-v2 for snapdragon-8-gen3, {TOKENS} tokens, {len(texts)} held-out texts, emulated on {machine()}\n"
    )
    print(columns(("scheme", "mean", "min", "MB", "partitions", "outside", "compile s", "run s"), rows, left=1))


def measure(source: Any, scheme: str, folder: Path, feeds: Any, expected: torch.Tensor) -> tuple[object, ...]:
    """Return a row."""
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
    start = time.perf_counter()
    got = torch.stack(
        [torch.from_numpy(npu.run(None, qnn.cut(item, source.inputs, TOKENS))[0]).ravel() for item in feeds]
    )
    seconds = (time.perf_counter() - start) / len(feeds)
    scores = torch.cosine_similarity(expected, got).tolist()
    assert lowered.delegation is not None
    return (
        scheme, f"{statistics.fmean(scores):.4f}", f"{min(scores):.4f}",
        f"{(folder / lowered.file).stat().st_size / 1e6:.1f}", lowered.delegation.partitions, lowered.delegation.outside,
        f"{took[0]:.1f}", f"{seconds:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
