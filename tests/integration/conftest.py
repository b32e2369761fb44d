"""What the integration tests share: the real model built once, and small models built once each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.core.scheme import PORTABLE
from edgellm.runtime import Bundle
from edgellm.targets import load_target, target_names

ROOT = Path(__file__).parents[2]
TARGETS = {name: load_target(name) for name in target_names()}
CPUS = [name for name, target in TARGETS.items() if set(map(target.backend, target.formats)) <= set(PORTABLE)]
"""Targets on whose CPUs every format runs."""


def edgellm(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "edgellm", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="session")
def demo_build(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The JSON that `edgellm build --json` printed for the default model, from an empty cache."""
    out = tmp_path_factory.mktemp("demo") / "bundle"
    done = edgellm("build", "--target", "android-arm64", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="session")
def demo_bundle(demo_build: dict[str, object]) -> Bundle:
    """The default model in three formats."""
    return Bundle.open(str(demo_build["bundle"]))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a small model of a kind (see tests/models.py), written once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("models") / kind
            command = [sys.executable, "-m", "tests.models", kind, str(made[kind])]
            subprocess.run(
                command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
            )
        return made[kind]

    return folder
