"""`python -m tests.figures.ethos_u`: agreement of the static encoder for Ethos-U, and what Vela estimates.

Agreement is of the reference, the file that Vela compiles, run by TFLite's interpreter on this machine; on texts that
neither calibration nor any choice has seen. Times and bytes are Vela's: nothing was run on an NPU.

--model FOLDER       another model than all-MiniLM-L6-v2
--accelerator NAME   ethos-u85-512, ethos-u65-256 and ethos-u55-128 if left out; may be repeated
--tokens N           fixed length (64)
--json               one JSON object per accelerator, a line each
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgellm.cli.render import columns
from edgellm.core.precision import Precisions
from edgellm.core.target import EthosU
from edgellm.texts import default_texts
from edgellm.toolchain import vela

HELD_OUT = Path(__file__).with_name("held_out.txt")
ACCELERATORS = ("ethos-u85-512", "ethos-u65-256", "ethos-u55-128")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--accelerator", action="append")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    vela.setup()
    found = []
    for name in options.accelerator or ACCELERATORS:
        with contextlib.redirect_stdout(sys.stderr):  # converters print
            found.append(measure(options.model, name, options.tokens, options.texts))
        if options.json:
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        return
    head = ("accelerator", "mean", "min", "NPU", "CPU", "SRAM KB", "DRAM KB", "flash KB", "file MB", "MHz", "ms")
    rows = [
        (r["accelerator"], f"{r['mean']:.4f}", f"{r['min']:.4f}", str(r["npu_operators"]), str(len(r["cpu_operators"])),
         *(f"{r[key] / 1e3:.0f}" for key in ("sram_bytes", "dram_bytes", "flash_bytes")), f"{r['file_bytes'] / 1e6:.1f}",
         f"{r['clock_mhz']:.0f}", f"{r['estimated_ms']:.1f}")
        for r in found
    ]  # fmt: skip
    print(f"a16w8 at {options.tokens} tokens. Cosine with fp32 of the reference, {found[0]['texts']} held-out texts;")
    print(
        f"operators on NPU and CPU; memory and ms of the NPU's part as {found[0]['compiler']} estimates, not measured"
    )
    print(columns(head, rows))
    for row in found:
        print(f"{row['accelerator']}: {row['system']}, {row['memory_mode']}; CPU: {', '.join(row['cpu_operators'])}")


def measure(model: str | None, accelerator: str, tokens: int, count: int) -> dict[str, Any]:
    """Return agreement of the reference and Vela's figures."""
    from edgellm.backends import Prepared
    from edgellm.backends.tflite_ethos_u import lower
    from edgellm.stages.faithful import to_tensors
    from edgellm.stages.lower import encode_texts
    from edgellm.stages.prepare import prepare, reference
    from edgellm.stages.source import read_source

    source = read_source(model, task="feature-extraction" if model else None, tokenizer=None, pooling=None,
                         describe=lambda name: {})  # fmt: skip
    samples = [to_tensors(item) for item in encode_texts(source, default_texts("calibration"), tokens)]
    rewritten = prepare(source)
    prepared = Prepared(
        rewritten.module, source.inputs, source.output, (tokens,), rewritten.finite_mask, samples=samples
    )
    texts = [line for line in HELD_OUT.read_text(encoding="utf-8").split("\n") if line][:count]
    feeds = encode_texts(source, texts, tokens)
    module = reference(source)
    expected = [module(**to_tensors(item)).detach().numpy().ravel() for item in feeds]
    target: Any = SimpleNamespace(npu=EthosU(accelerator))
    with tempfile.TemporaryDirectory() as folder:
        made = lower(prepared, Precisions("a16w8"), target, Path(folder))
        assert made.npu is not None
        got = run(Path(folder) / made.reference, source, feeds, tokens)
    scores = [cosine(a, b) for a, b in zip(expected, got, strict=True)]
    report = dataclasses.asdict(made.npu)
    where = report.pop("accelerator")
    return {
        **report, "accelerator": where["name"], "system": where["system"], "memory_mode": where["memory_mode"],
        "cpu_operators": [item.operator for item in made.npu.cpu_operators], "texts": len(texts), "tokens": tokens,
        "mean": statistics.fmean(scores), "min": min(scores), "worst": min(zip(scores, texts, strict=True))[1],
    }  # fmt: skip


def run(path: Path, source: Any, feeds: Any, tokens: int) -> list[Any]:
    """Return the outputs of a reference, for feeds that are padded to its length."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    from edgellm.runtime.engines.tflite import signature_name

    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner(signature_name(tokens))
    found = []
    for item in feeds:
        padded = {}
        for spec in source.inputs:
            row = np.full((1, tokens), spec.pad, dtype=np.int32)
            row[:, : item[spec.name].shape[1]] = item[spec.name]
            padded[spec.name] = row
        found.append(runner(**padded)[source.output.name].ravel())
    return found


def cosine(a: Any, b: Any) -> float:
    """Return the cosine of two vectors."""
    return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))


if __name__ == "__main__":
    main()
