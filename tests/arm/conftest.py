"""What tests on emulated Arm CPUs share: the emulator, which is downloaded once, and a small real bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.emulation.setup import setup
from edgellm.emulation.sysroot import Emulation, require
from edgellm.folders import cache_dir
from edgellm.runtime import Bundle
from edgellm.toolchain.downloads import Download

ROOT = Path(__file__).parents[2]
# The user's own, read before any fixture sets another: nobody wants to download the emulator for every run.
CACHE = str(cache_dir())


class Steps:
    def step(self, text: str) -> None:
        print(text)

    def downloading(self, download: Download, done: int) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def user_cache() -> Iterator[None]:
    """Work in the cache that has the emulator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", CACHE)
        yield


@pytest.fixture(scope="session")
def emulation() -> Emulation:
    """Return the emulator, set up if it is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", CACHE)
        setup(Steps())
        return require()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return an encoder of random weights, in ONNX and TFLite."""
    folder = tmp_path_factory.mktemp("small")
    environment = {**os.environ, "EDGELLM_CACHE": CACHE, "HF_HUB_OFFLINE": "1"}
    for command in (
        [sys.executable, "-m", "tests.models", "encoder", str(folder / "model")],
        [
            sys.executable, "-m", "edgellm", "build", str(folder / "model"), "--target", "raspberry-pi-5",
            "--format", "onnx", "--format", "tflite", "--out", str(folder / "bundle"), "--quiet",
        ],
    ):  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the default model in three formats, as `make demo` builds it; from the cache if it was built before."""
    out = tmp_path_factory.mktemp("minilm") / "bundle"
    environment = {**os.environ, "EDGELLM_CACHE": CACHE, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "edgellm", "build", "--target", "android-arm64", "--out", str(out), "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return Bundle.open(out)
