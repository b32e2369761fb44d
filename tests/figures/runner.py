"""`python -m tests.figures.runner [BUNDLE]`: the native runner against the Python runtime, and its size.

Both run the same ExecuTorch artifact on the same ids, each in a worker of its own, in turns from one process; the clock
of each runs inside its worker. BUNDLE is `build/demo` (`make demo`) if left out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from edgellm.cli.render import columns
from edgellm.runtime.bundle import Bundle
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import machine
from edgellm.toolchain.facts import EXECUTABLE, RunnerBuild
from edgellm.toolchain.runner import build_runner

TOKENS = (16, 128)
ROUNDS, BLOCK = 40, 5


def main() -> None:
    """Print the figures."""
    bundle = Bundle.open(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    print(f"The native runner on {machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        here = build_runner("linux-x86_64", Path(folder) / "x86_64")
        print_speed(bundle, here)
        print_sizes([here, build_runner("linux-arm64", Path(folder) / "arm64")])


def print_speed(bundle: Bundle, runner: RunnerBuild) -> None:
    """Print the p50 of both at each length, and the runner's share of the Python runtime's time."""
    samples = measure(bundle, runner.path / EXECUTABLE)
    rows = []
    for tokens in TOKENS:
        python, native = (statistics.median(samples[name, tokens]) for name in ("python", "runner"))
        rows.append((tokens, f"{python:.3f}", f"{native:.3f}", f"{native / python:.3f}x"))
    artifact = bundle.artifact("executorch").id
    print(f"{artifact}, 1 thread, p50 of {ROUNDS * BLOCK} runs in turns")
    print(columns(("tokens", "Python runtime ms", "runner ms", "runner / Python"), rows, left=0), end="\n\n")


def measure(bundle: Bundle, program: Path) -> dict[tuple[str, int], list[float]]:
    """Return times in ms by worker and length."""
    artifact = bundle.artifact("executorch")
    commands = {"python": [sys.executable, "-P", "-m", "edgellm.runtime"], "runner": [str(program)]}
    samples: dict[tuple[str, int], list[float]] = {(name, n): [] for name in commands for n in TOKENS}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(WorkerClient(cmd, what=name)) for name, cmd in commands.items()}
        for worker in workers.values():
            worker.request("open", bundle=str(bundle.path.resolve()), artifact=artifact.id, threads=1)
        for tokens in TOKENS:
            values = {
                "input_ids": [101, *(1000 + 37 * i for i in range(tokens - 2)), 102],
                "attention_mask": [1] * tokens,
                "token_type_ids": [0] * tokens,
            }
            feeds = {spec.name: [values[spec.name]] for spec in artifact.signature.inputs}
            for turn in range(ROUNDS):
                for name, worker in list(workers.items())[:: 1 if turn % 2 else -1]:
                    reply = worker.request("time", feeds=feeds, warmup=1, runs=BLOCK)
                    samples[name, tokens] += reply["inference_ms"]
    return samples


def print_sizes(builds: list[RunnerBuild]) -> None:
    """Print what each build weighs, and what it asks of the device."""
    rows = [
        (b.toolchain, f"{b.executable_bytes / 1e6:.2f}", f"{b.libraries_bytes / 1e6:.2f}", b.glibc, b.glibcxx)
        for b in builds
    ]
    print(columns(("toolchain", "program MB", "libraries MB", "glibc", "GLIBCXX"), rows))


if __name__ == "__main__":
    main()
