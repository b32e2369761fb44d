"""`python -m tests.figures.arm`: the figures about emulated Arm CPUs, each printed with what it was measured on.

--only setup,agreement,instructions,spread,verify    some of them
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edgellm
from edgellm.cli import render
from edgellm.cli.render import columns
from edgellm.counting import count
from edgellm.device import open_device
from edgellm.runtime.bundle import Bundle
from edgellm.stages.verify import verify_on

PARTS = ("setup", "agreement", "instructions", "spread", "verify")
CPUS = ("emulator:cortex-a72", "emulator:cortex-a76")


def main() -> None:
    """Print the figures asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS))
    only = parser.parse_args().only.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "setup" in only:
            print_setup(folder)
        if set(only) == {"setup"}:
            return
        int8 = edgellm.build(target="raspberry-pi-5", out=folder / "int8")
        if "agreement" in only:
            print_agreement(int8)
        if "instructions" in only:
            print_instructions(int8, edgellm.build(target="raspberry-pi-5", scheme="fp32", out=folder / "fp32"))
        if "spread" in only:
            print_spread(int8)
        if "verify" in only:
            print_verify(int8)


def print_setup(folder: Path) -> None:
    """Print what setting up the emulator from nothing takes."""
    cache = folder / "cache"
    start = time.monotonic()
    command = [sys.executable, "-m", "edgellm", "device", "setup", "emulator", "--json"]
    subprocess.run(command, check=True, env={**os.environ, "EDGELLM_CACHE": str(cache)}, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    seen = set()
    size = 0
    for path in cache.rglob("*"):
        facts = path.lstat()
        if path.is_file() and not path.is_symlink() and facts.st_ino not in seen:  # CPU models share files
            seen.add(facts.st_ino)
            size += facts.st_size
    print(
        f"edgellm device setup emulator, from nothing: {seconds:.0f} s, {size / 1e6:.0f} MB on disk, downloads included\n"
    )


def print_agreement(int8: Bundle) -> None:
    """Print agreement over all golden cases, on both CPUs."""
    for result in verify_on(int8, [open_device(name) for name in CPUS]):
        print(render.verified(result), end="\n\n")


def print_instructions(int8: Bundle, fp32: Bundle) -> None:
    """Print what int8 takes of fp32."""
    print(render.counted(count([fp32, int8], [open_device(name) for name in CPUS], tokens=(16, 64))), end="\n\n")


def print_spread(int8: Bundle) -> None:
    """Print how far five counts lie apart, each in a worker of its own."""
    found: dict[str, list[int]] = {}
    for _ in range(5):
        for record in count([int8], [open_device("emulator:cortex-a76")], tokens=(16,)).records:
            found.setdefault(record.id, []).append(record.instructions)
    rows = [
        (name, f"{min(each):,}", f"{max(each):,}", f"{100 * (max(each) - min(each)) / min(each):.4f} %")
        for name, each in found.items()
    ]
    print("Five counts on cortex-a76 at 16 tokens, each in a new worker")
    print(columns(("artifact", "least", "most", "spread"), rows), end="\n\n")


def print_verify(int8: Bundle) -> None:
    """Print how long one verification of one format takes."""
    for fmt in ("executorch", "onnx", "tflite"):
        start = time.monotonic()
        command = [sys.executable, "-m", "edgellm", "verify", str(int8.path), "--device", CPUS[0], "--json"]
        done = subprocess.run([*command, "--format", fmt, "--cases", "8"], check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["emulated"]
        print(f"edgellm verify --device {CPUS[0]} --format {fmt} --cases 8: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
